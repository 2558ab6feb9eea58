"""Overlap of boxes, as a loss or a matching cost."""

import torch
from torch import Tensor


def generalized_iou(boxes: Tensor, others: Tensor, *, min_area: float = 1e-6) -> Tensor:
    """Return GIoU in [-1, 1] of ``boxes`` and ``others`` (..., 4), broadcast to each other: (...).

    Generalized Intersection over Union (Rezatofighi et al., 2019), algorithm 1. Boxes are
    (x0, y0, x1, y1), at least float32. Denominators are at least ``min_area``: with empty boxes the
    result is finite (torchvision's is not, or adds a constant to every area).
    """
    start, end = boxes[..., :2], boxes[..., 2:]
    other_start, other_end = others[..., :2], others[..., 2:]
    intersection = _area(torch.maximum(start, other_start), torch.minimum(end, other_end))
    union = _area(start, end) + _area(other_start, other_end) - intersection
    union = union.clamp(min=min_area)
    hull = _area(torch.minimum(start, other_start), torch.maximum(end, other_end))
    hull = hull.clamp(min=min_area)
    return intersection / union - (hull - union) / hull


def _area(start: Tensor, end: Tensor) -> Tensor:
    """Return areas (...) of boxes from ``start`` to ``end`` (..., 2); 0 if they are inverted."""
    width, height = (end - start).clamp(min=0).unbind(-1)
    return width * height
