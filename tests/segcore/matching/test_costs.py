"""Class cost of sigmoid classes."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from segcore.matching import focal_class_cost


def test_is_the_focal_loss_gained():
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    one, zero = torch.ones_like(logits), torch.zeros_like(logits)
    expected = sigmoid_focal_loss(logits, one) - sigmoid_focal_loss(logits, zero)
    torch.testing.assert_close(focal_class_cost(logits), expected, rtol=1e-8, atol=1e-8)


def test_falls_with_the_logit():
    cost = focal_class_cost(torch.linspace(-20, 20, 101))
    assert (cost.diff() <= 0).all()


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_certain_classes_cost_finitely(logit):
    cost = focal_class_cost(torch.tensor(logit, requires_grad=True))
    assert cost.isfinite() and not cost.requires_grad


def test_nan_is_passed_on():
    assert focal_class_cost(torch.tensor(torch.nan)).isnan()
