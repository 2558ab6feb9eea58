"""Losses of masks and boxes, and sampling of the points that mask losses are computed at."""

from segcore.losses.box_losses import generalized_iou
from segcore.losses.mask_losses import (
    dice_loss,
    pairwise_mask_losses,
    pairwise_squared_dice_loss,
    sigmoid_ce_loss,
    squared_dice_loss,
)
from segcore.losses.normalizer import mean_over_workers
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
    "dice_loss",
    "generalized_iou",
    "mean_over_workers",
    "pairwise_mask_losses",
    "pairwise_squared_dice_loss",
    "point_sample",
    "sigmoid_ce_loss",
    "squared_dice_loss",
    "uncertain_points",
    "uniform_points",
]
