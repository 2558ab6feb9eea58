"""Losses of masks against targets in [0, 1]: pair by pair, or of all pairs.

The last dimension is summed over: pixels or sampled points (P). All take floating-point tensors of
one type, at least float32: see :func:`segcore.functional.at_least_float32`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_ce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross entropy (...) of ``logits`` and ``targets`` (..., P)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the dice loss (...) of ``logits`` and ``targets`` (..., P), smoothed by 1.

    Without squares, as in Mask2Former (Cheng et al., 2022), section 3.2.
    """
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + targets.sum(-1) + 1)


def pairwise_mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`sigmoid_ce_loss` and :func:`dice_loss` of all pairs, as matching costs.

    Args:
        logits: (..., Q, P).
        targets: (..., n, P).

    Returns:
        Two tensors (..., Q, n). Not meant for gradients.
    """
    probability = logits.sigmoid()
    # CE(s, t) = softplus(s) - s t is linear in t: one matrix product. By the probability, softplus
    # costs a third of torch's on a CPU; its argument of log lies in [0.5, 1].
    softplus = logits.relu() - torch.maximum(probability, 1 - probability).log()
    cross_entropy = softplus.sum(-1, keepdim=True) - logits @ targets.mT
    area = probability.sum(-1, keepdim=True) + targets.sum(-1).unsqueeze(-2)
    dice = 1 - (2 * (probability @ targets.mT) + 1) / (area + 1)
    return cross_entropy / logits.shape[-1], dice


def squared_dice_loss(masks: Tensor, targets: Tensor, *, smooth: float) -> Tensor:
    """Return the dice loss (...) of mask values ``masks`` and ``targets`` (..., P).

    With squares in the denominator: V-Net (Milletari et al., 2016), section 3. ``smooth`` is added
    to either sum of squares; the loss of two empty masks is 1.
    """
    return _squared_dice_loss(
        (masks * targets).sum(-1), masks.square().sum(-1), targets.square().sum(-1), smooth
    )


def pairwise_squared_dice_loss(masks: Tensor, targets: Tensor, *, smooth: float) -> Tensor:
    """Return :func:`squared_dice_loss` of all pairs of masks (..., Q, P) and targets (..., n, P).

    Returns:
        (..., Q, n).
    """
    return _squared_dice_loss(
        masks @ targets.mT,
        masks.square().sum(-1).unsqueeze(-1),
        targets.square().sum(-1).unsqueeze(-2),
        smooth,
    )


def _squared_dice_loss(overlap: Tensor, area: Tensor, target_area: Tensor, smooth: float) -> Tensor:
    return 1 - 2 * overlap / ((area + smooth) + (target_area + smooth))
