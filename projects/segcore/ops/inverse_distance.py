"""Inverse-distance ("Shepard") weights and the features of offsets between tokens, in plain
PyTorch."""

import torch
from torch import Tensor

EPSILON = 1e-11


def inverse_distance_weights(
    queries: Tensor, neighbours: Tensor, power: Tensor | float, valid: Tensor | None = None
) -> Tensor:
    """Weights ``u / sum(u)`` with ``u = 1 / (D ** power + 1e-11)``, D the squared distance.

    AutoFocusFormer's interpolation (Ziwen et al., 2023, supplement); note that ``power`` acts on
    the squared distance. Differentiable in ``queries``, ``neighbours`` and ``power``; where D = 0
    the gradients of all three are 0.

    Args:
        queries: (..., 2)
        neighbours: (..., k, 2)
        power: a positive number, or a tensor with one element
        valid: (..., k) bool; the others get the weight 0. At least one of k has to be valid.

    Returns:
        (..., k)
    """
    distance = (queries[..., None, :] - neighbours).square().sum(-1)
    coincide = distance == 0
    # The inner selection keeps infinite slopes out of the gradient.
    raised = torch.where(coincide, 1, distance).pow(power)
    inverse = 1 / (torch.where(coincide, 0, raised) + EPSILON)
    if valid is not None:
        inverse = torch.where(valid, inverse, 0)
    return inverse / inverse.sum(-1, keepdim=True)


def offset_features(offsets: Tensor) -> Tensor:
    """The five numbers (dx, dy, d, dy/d, dx/d) of offsets (..., 2), with d their length; all 0
    where d is 0. AutoFocusFormer's relative position features: (..., 5)."""
    length = offsets.square().sum(-1, keepdim=True).sqrt()
    direction = offsets.flip(-1) / torch.where(length == 0, 1, length)
    return torch.cat([offsets, length, direction], -1)
