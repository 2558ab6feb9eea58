"""Instance segmentation from mask classification (MaskFormer, section 3.4)."""

from collections.abc import Collection

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from segcore.inference.mask_wise import is_thing
from segcore.inference.masks import MASKS_PER_CHUNK, mask_areas, masks_to_boxes, sum_inside


def instance_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    topk: int,
    thing_ids: Collection[int] | None = None,
) -> Instances:
    """The ``topk`` most probable pairs of query and class; a query may appear more than once.

    The score of an instance is its class probability times the mean probability inside its mask.

    Args:
        class_logits: (Q, K+1), the last entry is "no object".
        mask_logits: (Q, H, W).
        topk: number of pairs; all of them where there are fewer.
        thing_ids: drop pairs of other classes, after the choice of ``topk``; None keeps all.

    Returns:
        Instances sorted by falling score, with scores (n,), pred_classes (n,) int64,
        pred_masks (n, H, W) bool and pred_boxes, the tight boxes of the masks.
    """
    class_probabilities = class_logits.to(mask_logits.dtype).softmax(dim=-1)[:, :-1]
    num_classes = class_probabilities.shape[1]
    scores, pairs = class_probabilities.flatten().topk(min(topk, class_probabilities.numel()))
    queries, classes = pairs // num_classes, pairs % num_classes
    if thing_ids is not None:
        things = is_thing(classes, thing_ids)
        scores, queries, classes = scores[things], queries[things], classes[things]

    # Each query once, however many classes it appears with.
    queries, instance_query = queries.unique(return_inverse=True)
    chunks = [_mask_and_quality(mask_logits[chunk]) for chunk in queries.split(MASKS_PER_CHUNK)]
    masks, quality = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    scores = scores * quality[instance_query]
    boxes = masks_to_boxes(masks)[instance_query]
    return sorted_instances(scores, classes, masks, boxes, instance_query)


def sorted_instances(
    scores: Tensor,
    classes: Tensor,
    masks: Tensor,
    boxes: Tensor,
    sources: Tensor | None = None,
    *,
    topk: int | None = None,
) -> Instances:
    """Instances in Detectron2's form by falling score, equal ones in the order given.

    Args:
        scores: (n,).
        classes: (n,) int64.
        masks: (m, H, W) bool.
        boxes: (n, 4), absolute (x0, y0, x1, y1).
        sources: (n,) int64, the mask of each instance; None: they correspond.
        topk: keep so many; None keeps all.
    """
    scores, order = scores.sort(descending=True, stable=True)
    scores, order = scores[:topk], order[:topk]
    instances = Instances(tuple(masks.shape[1:]))
    instances.scores = scores
    instances.pred_classes = classes[order]
    instances.pred_masks = masks[order if sources is None else sources[order]]
    instances.pred_boxes = Boxes(boxes[order])
    return instances


def _mask_and_quality(mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Binary masks of (N, H, W) logits, and the mean probability inside each, (N,); 0 if empty."""
    masks = mask_logits > 0
    return masks, sum_inside(mask_logits.sigmoid(), masks) / (mask_areas(masks) + 1e-6)
