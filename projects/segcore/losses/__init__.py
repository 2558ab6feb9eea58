"""Losses of masks, and the points that they are computed at."""

from segcore.losses.mask_losses import (
    at_least_float32,
    dice_loss,
    pairwise_mask_losses,
    sigmoid_ce_loss,
)
from segcore.losses.point_sampling import (
    DrawPoints,
    MaskSampler,
    point_sample,
    uncertain_points,
    uniform_points,
)

__all__ = [
    "DrawPoints",
    "MaskSampler",
    "at_least_float32",
    "dice_loss",
    "pairwise_mask_losses",
    "point_sample",
    "sigmoid_ce_loss",
    "uncertain_points",
    "uniform_points",
]
