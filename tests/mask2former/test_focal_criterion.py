"""MaskFormer's costs and losses, against their definition."""

import pytest
import torch
import torch.nn.functional as F

from mask2former.criterion import build_criterion
from mask2former.focal_criterion import FocalCriterion, pairwise_focal_loss
from segcore.config import get_cfg


def focal(logits, targets):
    """Mean over the last dimension of -alpha_t (1 - p_t)^2 log(p_t), alpha 0.25."""
    probability = logits.sigmoid()
    right = torch.where(targets == 1, probability, 1 - probability)
    alpha = torch.where(targets == 1, 0.25, 0.75)
    return (-alpha * (1 - right) ** 2 * right.log()).mean(-1)


def dice(logits, targets):
    probability = logits.sigmoid()
    total = probability.sum(-1) + targets.sum(-1)
    return 1 - (2 * (probability * targets).sum(-1) + 1) / (total + 1)


@pytest.fixture
def criterion():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.MODEL.MASK_FORMER.CRITERION = "focal"
    return build_criterion(cfg)


def batch(frames=()):
    """Outputs of 4 queries and 3 classes, and targets of two images, one of them without any."""
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(2, 4, 4, dtype=torch.float64, generator=generator),
        "pred_masks": torch.randn(2, 4, *frames, 6, 8, dtype=torch.float64, generator=generator),
    }
    masks = torch.rand(2, *frames, 17, 23, generator=generator) < 0.4
    targets = [
        {"labels": torch.tensor([2, 0]), "masks": masks},
        {"labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]},
    ]
    return outputs, targets


@pytest.mark.parametrize("frames", [(), (3,)])
def test_costs_are_those_of_each_pair_at_the_size_of_the_prediction(criterion, frames):
    outputs, targets = batch(frames)
    ((costs, empty),) = criterion.matcher.costs([outputs], targets)
    rows, columns = torch.arange(6) * 17 // 6, torch.arange(8) * 23 // 8  # nearest
    true = targets[0]["masks"][..., rows, :][..., columns].double().flatten(1)
    logits = outputs["pred_masks"][0].flatten(1)
    weights = criterion.matcher.mask_weight, criterion.matcher.dice_weight
    for name, loss, weight in zip(("mask", "dice"), (focal, dice), weights, strict=True):
        expected = torch.stack([loss(logits, mask.expand_as(logits)) for mask in true], dim=1)
        torch.testing.assert_close(costs[name], weight * expected)
    assert {name: tuple(cost.shape) for name, cost in empty.items()} == dict.fromkeys(empty, (4, 0))


@pytest.mark.parametrize("frames", [(), (3,)])
def test_losses_are_those_of_the_pairs_at_the_size_of_the_targets(criterion, frames):
    assert isinstance(criterion, FocalCriterion)
    outputs, targets = batch(frames)
    losses = criterion.unweighted(outputs, targets)
    pairs = criterion.matcher([outputs], targets)
    masks = outputs["pred_masks"][0, pairs.query[0]].flatten(0, -3).unsqueeze(1)
    masks = F.interpolate(masks, size=(17, 23), mode="bilinear", align_corners=False).flatten(1)
    true = targets[0]["masks"][pairs.target[0]].flatten(0, -3).flatten(1).double()
    torch.testing.assert_close(losses["loss_mask"], focal(masks, true).sum() / 2)
    torch.testing.assert_close(losses["loss_dice"], dice(masks, true).sum() / 2)


def test_gradients(criterion):
    outputs, targets = batch()
    logits = outputs["pred_logits"]
    masks = outputs["pred_masks"][..., :3, :2].requires_grad_()

    def loss(masks):
        losses = criterion({"pred_logits": logits, "pred_masks": masks}, targets)
        return losses["loss_mask"] + losses["loss_dice"]

    assert torch.autograd.gradcheck(loss, masks)


def test_large_logits_stay_finite():
    logits, targets = torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    costs = pairwise_focal_loss(logits, targets)
    assert costs.isfinite().all() and costs[0, 0] > 50 and costs[0, 1] == 0


def test_a_batch_without_targets(criterion):
    outputs, targets = batch()
    losses = criterion.unweighted(outputs, [targets[1], targets[1]])
    assert losses["loss_mask"] == losses["loss_dice"] == 0
