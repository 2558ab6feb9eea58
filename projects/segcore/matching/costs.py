"""Costs of pairs of predictions and targets, as the assignment wants them: no gradients."""

import torch
from torch import Tensor

# Keeps the logarithm of a probability that is rounded to 0 finite.
SMALLEST_PROBABILITY = 1e-12


@torch.no_grad()
def focal_class_cost(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """What the focal loss of a sigmoid class grows by if its target were 1 instead of 0.

    Deformable DETR (Zhu et al., 2021), appendix A.4; of ``logits`` of the target's class, any
    shape, at least float32 -> the same shape.
    """
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability) ** gamma * (probability + SMALLEST_PROBABILITY).log()
    negative = -(1 - alpha) * probability**gamma * (1 - probability + SMALLEST_PROBABILITY).log()
    return positive - negative
