"""Inverse-distance ("Shepard") weights in plain PyTorch."""

import torch
from torch import Tensor

EPSILON = 1e-11


def inverse_distance_weights(
    queries: Tensor, neighbors: Tensor, power: Tensor | float, valid: Tensor | None = None
) -> Tensor:
    """Return weights ``u / sum(u)`` with ``u = 1 / (D ** power + 1e-11)``, D the squared distance.

    AutoFocusFormer's interpolation (Ziwen et al., 2023, supplement); note that ``power`` acts on
    the squared distance. Differentiable in ``queries``, ``neighbors`` and ``power``; where D = 0
    the gradients of all three are 0.

    Args:
        queries: (..., 2)
        neighbors: (..., k, 2)
        power: a positive number, or a tensor with one element
        valid: (..., k) bool; the others get the weight 0. At least one of k has to be valid.

    Returns:
        (..., k)
    """
    distance = (queries[..., None, :] - neighbors).square().sum(-1)
    coincide = distance == 0
    # The inner selection keeps infinite slopes out of the gradient.
    raised = torch.where(coincide, 1, distance).pow(power)
    inverse = 1 / (torch.where(coincide, 0, raised) + EPSILON)
    if valid is not None:
        inverse = torch.where(valid, inverse, 0)
    return inverse / inverse.sum(-1, keepdim=True)
