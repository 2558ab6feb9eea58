"""Matching costs of pairs of predictions and targets, without gradients."""

import torch
from torch import Tensor

# Keeps the logarithm of a probability that is rounded to 0 finite.
SMALLEST_PROBABILITY = 1e-12


@torch.no_grad()
def focal_class_cost(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the sigmoid focal loss with target 1, less that with target 0.

    Deformable DETR (Zhu et al., 2021), appendix A.4.

    Args:
        logits: logits of the target's class, any shape, at least float32.

    Returns:
        Costs of the same shape.
    """
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability) ** gamma * (probability + SMALLEST_PROBABILITY).log()
    negative = -(1 - alpha) * probability**gamma * (1 - probability + SMALLEST_PROBABILITY).log()
    return positive - negative
