"""Losses of masks, of pairs and of all pairs."""

import pytest
import torch
import torch.nn.functional as F

from segcore.losses import (
    dice_loss,
    pairwise_mask_losses,
    pairwise_squared_dice_loss,
    sigmoid_ce_loss,
    squared_dice_loss,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_values_by_hand():
    logits = torch.zeros(1, 4)
    targets = torch.tensor([[1.0, 1, 0, 0]])
    assert sigmoid_ce_loss(logits, targets).item() == pytest.approx(0.693147, abs=1e-6)
    # 1 - (2 * (0.5 + 0.5) + 1) / (2 + 2 + 1)
    assert dice_loss(logits, targets).item() == pytest.approx(0.4)


def test_right_and_wrong_predictions():
    targets = (torch.rand(3, 50) > 0.5).float()
    right, wrong = 40 * targets - 20, 20 - 40 * targets
    assert sigmoid_ce_loss(right, targets).max() < 1e-6
    assert dice_loss(right, targets).max() < 1e-6
    assert sigmoid_ce_loss(wrong, targets).min() > 19
    assert dice_loss(wrong, targets).min() > 0.9


@pytest.mark.parametrize("loss", [sigmoid_ce_loss, dice_loss])
def test_gradients(loss):
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(3, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits)


@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_pairwise_equals_pair_by_pair(scale):
    logits = scale * torch.randn(2, 5, 31, dtype=torch.float64)
    targets = torch.rand(2, 3, 31, dtype=torch.float64)
    cross_entropy, dice = pairwise_mask_losses(logits, targets)
    pairs = logits[:, :, None].expand(2, 5, 3, 31), targets[:, None].expand(2, 5, 3, 31)
    torch.testing.assert_close(cross_entropy, sigmoid_ce_loss(*pairs))
    torch.testing.assert_close(dice, dice_loss(*pairs))


def test_pairwise_in_float32():
    logits, targets = 5 * torch.randn(20, 1000), torch.rand(4, 1000)
    for fast, exact in zip(
        pairwise_mask_losses(logits, targets),
        pairwise_mask_losses(logits.double(), targets.double()),
        strict=True,
    ):
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)


def test_pairwise_with_nothing():
    for q, n in ((0, 3), (3, 0)):
        for cost in pairwise_mask_losses(torch.zeros(q, 8), torch.zeros(n, 8)):
            assert cost.shape == (q, n)


def test_squared_dice_by_hand():
    masks, targets = torch.tensor([[1.0, 0.5, 0]]), torch.tensor([[1.0, 0, 1]])
    # 1 - 2 * 1 / (1.25 + 0.1 + 2 + 0.1)
    assert squared_dice_loss(masks, targets, smooth=0.1).item() == pytest.approx(1 - 2 / 3.45)
    assert squared_dice_loss(targets, targets, smooth=0).item() == 0
    assert squared_dice_loss(masks * 0, targets * 0, smooth=1e-6).item() == 1


def test_pairwise_squared_dice_equals_pair_by_pair():
    masks = 3 * torch.rand(2, 5, 31, dtype=torch.float64)
    targets = torch.rand(2, 3, 31, dtype=torch.float64)
    pairs = squared_dice_loss(masks[:, :, None], targets[:, None], smooth=0.1)
    torch.testing.assert_close(pairwise_squared_dice_loss(masks, targets, smooth=0.1), pairs)
    assert pairwise_squared_dice_loss(masks, targets[:, :0], smooth=0.1).shape == (2, 5, 0)


def test_squared_dice_gradients():
    masks = torch.rand(3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(3, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: squared_dice_loss(x, targets, smooth=1e-3), masks)


def test_cross_entropy_is_torchs():
    logits, targets = torch.randn(4, 9), torch.rand(4, 9)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(sigmoid_ce_loss(logits, targets).mean(), expected)
