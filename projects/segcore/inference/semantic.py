"""Semantic segmentation from mask classification (MaskFormer, section 3.4)."""

from collections.abc import Callable

from torch import Tensor

from segcore.inference.masks import PIXELS_PER_CHUNK


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of each class at each pixel: the sum over queries of class times mask probability.

    Args:
        class_logits: (Q, K+1), the last entry is "no object".
        mask_logits: (Q, H, W).

    Returns:
        (K, H, W) in the type of ``mask_logits``. Not a probability: it may exceed 1.
    """
    class_probabilities = class_logits.to(mask_logits.dtype).softmax(dim=-1)[:, :-1]
    return _sum_over_queries(class_probabilities.T, mask_logits, Tensor.sigmoid)


def semantic_scores(scores: Tensor, labels: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """The same of masks that have one class each.

    Args:
        scores: (N,) class scores.
        labels: (N,) int64 in [0, K).
        masks: (N, H, W) mask values from 0; those above 1 count as 1.
        num_classes: K.

    Returns:
        (K, H, W) in the type of ``masks``.
    """
    weights = masks.new_zeros((num_classes, len(masks)))
    weights.scatter_(0, labels[None], scores[None].to(masks.dtype))
    return _sum_over_queries(weights, masks, lambda values: values.clamp(max=1))


def _sum_over_queries(
    weights: Tensor, masks: Tensor, probability: Callable[[Tensor], Tensor]
) -> Tensor:
    """weights (K, N) @ probability(masks (N, H, W)) -> (K, H, W)."""
    _, height, width = masks.shape
    scores = masks.new_empty((len(weights), height, width))
    rows = max(1, PIXELS_PER_CHUNK // max(1, width))
    for source, target in zip(masks.split(rows, 1), scores.split(rows, 1), strict=True):
        merged = weights @ probability(source).flatten(1)
        target.copy_(merged.unflatten(1, target.shape[1:]))
    return scores
