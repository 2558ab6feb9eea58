"""Instances in Detectron2's form."""

from detectron2.structures import Boxes, Instances
from torch import Tensor


def sorted_instances(
    scores: Tensor,
    classes: Tensor,
    masks: Tensor,
    boxes: Tensor,
    sources: Tensor | None = None,
    *,
    topk: int | None = None,
) -> Instances:
    """Return instances in Detectron2's form by falling score, stable.

    Args:
        scores: (n,).
        classes: (n,) int64.
        masks: (m, H, W) bool.
        boxes: (n, 4), absolute (x0, y0, x1, y1).
        sources: (n,) int64, the mask of each instance; None: they correspond.
        topk: number of instances to keep; None keeps all.
    """
    scores, order = scores.sort(descending=True, stable=True)
    scores, order = scores[:topk], order[:topk]
    instances = Instances(tuple(masks.shape[1:]))
    instances.scores = scores
    instances.pred_classes = classes[order]
    instances.pred_masks = masks[order if sources is None else sources[order]]
    instances.pred_boxes = Boxes(boxes[order])
    return instances
