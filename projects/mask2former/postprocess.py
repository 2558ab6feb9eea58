"""Predictions of masks from the logits of the queries of one image."""

from collections.abc import Collection

from torch import Tensor

from segcore.functional import at_least_float32
from segcore.inference import (
    InstancePrediction,
    MaskPrediction,
    MaskRating,
    PanopticPrediction,
    is_thing,
)

# Score of an instance: class probability times mean probability inside of the mask.
RATING = MaskRating(threshold=0.0, of_logits=True, area_offset=1e-6)


def mask_prediction(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: tuple[tuple[int, int], ...],
    *,
    topk: int,
    thing_ids: Collection[int] | None = None,
    resize_scores: bool = False,
) -> MaskPrediction:
    """Inference from mask classification (MaskFormer, section 3.4).

    Semantic scores are sums over queries of class times mask probability. Panoptic candidates are
    the queries with their most probable class, unless that is "no object"; instances the ``topk``
    most probable pairs of query and class, so that a query may appear more than once.

    Args:
        class_logits: (Q, K+1), the last entry is "no object". Half types become float32.
        mask_logits: (Q, h, w).
        sizes, resize_scores: see :class:`MaskPrediction`.
        topk: number of pairs; all of them where there are fewer.
        thing_ids: drop pairs of other classes, after the choice of ``topk``; None keeps all.
    """
    mask_logits = at_least_float32(mask_logits)
    probabilities = class_logits.to(mask_logits.dtype).softmax(dim=-1)
    scores, labels = probabilities.max(dim=-1)
    probabilities = probabilities[:, :-1]
    num_classes = probabilities.shape[1]
    queries = (labels != num_classes).nonzero()[:, 0]

    pair_scores, pairs = probabilities.flatten().topk(min(topk, probabilities.numel()))
    instances = pairs // num_classes, pairs % num_classes, pair_scores
    if thing_ids is not None:
        thing_pairs = is_thing(instances[1], thing_ids)
        instances = (part[thing_pairs] for part in instances)
    return MaskPrediction(
        mask_logits,
        Tensor.sigmoid,
        sizes,
        probabilities.T,
        PanopticPrediction(queries, labels[queries], scores[queries]),
        InstancePrediction(*instances, RATING),
        resize_scores,
    )
