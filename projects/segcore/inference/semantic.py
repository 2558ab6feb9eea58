"""Semantic segmentation from mask classification (MaskFormer, section 3.4)."""

from collections.abc import Callable

import torch
from torch import Tensor

from segcore.inference.masks import PIXELS_PER_CHUNK


def semantic_inference(
    weights: Tensor,
    masks: Tensor,
    activation: Callable[[Tensor], Tensor],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Sum class weight times mask value over the masks: scores of each class at each pixel.

    Args:
        weights: (K, N).
        masks: (N, H, W) logits.
        activation: function from logits to values from 0; those above 1 count as 1.
        out: (K, H, W) where the scores are written to, whole rows of a map.

    Returns:
        (K, H, W) in the type of ``masks``. Not a probability: it may exceed 1.
    """
    _, height, width = masks.shape
    scores = masks.new_empty((len(weights), height, width)) if out is None else out
    rows = max(1, PIXELS_PER_CHUNK // max(1, width))
    for source, target in zip(masks.split(rows, 1), scores.split(rows, 1), strict=True):
        values = activation(source).clamp(max=1).flatten(1)
        torch.mm(weights, values, out=target.flatten(1))
    return scores
