"""Costs and losses of MaskFormer (Cheng et al., 2021), section 3.3: focal instead of cross entropy.

Masks are compared at all pixels. Its recipes weigh class, focal and dice loss by 1, 20 and 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from mask2former.criterion import SetCriterion
from segcore.functional import at_least_float32
from segcore.losses import dice_loss, mean_over_workers, pairwise_mask_losses
from segcore.matching import Assignment, HungarianMatcher

# Focal loss (Lin et al., 2017), section 3.2.
ALPHA = 0.25
GAMMA = 2.0


class FocalMatcher(HungarianMatcher):
    """Matcher by class, and focal and dice loss of masks at all pixels of the prediction.

    Targets are resized to the prediction by the nearest pixel.
    """

    def _target_source(self, masks: Tensor) -> Tensor:
        return masks

    def _mask_costs(self, masks: Tensor, source: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
        targets = source.flatten(0, -3).unsqueeze(1)
        if targets.dtype == torch.bool:
            targets = targets.view(torch.uint8)
        true = F.interpolate(targets, size=masks.shape[-2:], mode="nearest")
        true = true.view(num_targets, masks[0].numel()).to(masks)
        logits = masks.flatten(1)
        _, dice = pairwise_mask_losses(logits, true)
        return pairwise_focal_loss(logits, true), dice


class FocalCriterion(SetCriterion):
    """:class:`SetCriterion` with the focal loss for "loss_mask", at the size of the targets.

    Predictions are resized bilinearly; keys of points have no effect.
    """

    def _mask_losses(
        self, matched_masks: Sequence[Tensor], targets, assignment: Assignment
    ) -> tuple[Tensor, Tensor]:
        true_masks = torch.cat([target["masks"] for target in targets])
        focal, dice = [], []
        # One by one: masks of this size take much memory.
        for masks, target in zip(matched_masks, assignment.target, strict=True):
            masks = at_least_float32(masks.flatten(0, -3))
            masks = F.interpolate(masks.unsqueeze(1), size=true_masks.shape[-2:], mode="bilinear")
            masks = masks.flatten(1)
            true = true_masks[target].flatten(0, -3).flatten(1).to(masks)
            focal.append(sigmoid_focal_loss(masks, true, ALPHA, GAMMA).mean(-1).sum())
            dice.append(dice_loss(masks, true).sum())
        focal, dice = torch.stack(focal), torch.stack(dice)
        pairs = assignment.query.shape[1] if self.normalize_by_matched else len(true_masks)
        num_masks = mean_over_workers([pairs], like=focal)
        return focal / num_masks, dice / num_masks


def pairwise_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean focal loss of all pairs of ``logits`` (Q, P) and ``targets`` (n, P): (Q, n).

    The targets are 0 or 1. Not meant for gradients.
    """
    positive, negative = (
        sigmoid_focal_loss(logits, torch.full_like(logits, value), ALPHA, GAMMA) for value in (1, 0)
    )
    # Linear in the targets: one matrix product.
    total = (positive - negative) @ targets.mT + negative.sum(-1, keepdim=True)
    return total / logits.shape[-1]
