"""Generalised IoU: values, gradients, empty boxes."""

import pytest
import torch
from torchvision.ops import generalized_box_iou, generalized_box_iou_loss

from segcore.losses import generalized_iou


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def boxes_of(*size: int) -> torch.Tensor:
    start, extent = torch.rand(*size, 2, dtype=torch.float64), torch.rand(*size, 2) + 0.1
    return torch.cat([start, start + extent], dim=-1) * 100


def test_values_by_hand():
    box = torch.tensor([0.0, 0, 2, 2])
    assert generalized_iou(box, box) == 1
    # Intersection 1, union 7, hull 9.
    assert generalized_iou(box, torch.tensor([1.0, 1, 3, 3])).item() == pytest.approx(1 / 7 - 2 / 9)
    # Apart: union 8, hull 8 * 2.
    assert generalized_iou(box, torch.tensor([6.0, 0, 8, 2])).item() == pytest.approx(-8 / 16)


def test_all_pairs_equal_torchvisions():
    boxes, others = boxes_of(7), boxes_of(4)
    expected = generalized_box_iou(boxes, others)
    torch.testing.assert_close(generalized_iou(boxes[:, None], others), expected)
    torch.testing.assert_close(generalized_iou(others, boxes[:, None]), expected)


def test_pair_by_pair_equals_torchvisions():
    boxes, others = boxes_of(3, 9), boxes_of(3, 9)
    expected = 1 - generalized_box_iou_loss(boxes, others, eps=0)
    torch.testing.assert_close(generalized_iou(boxes, others), expected)


def test_gradients():
    boxes, others = boxes_of(5).requires_grad_(), boxes_of(5)
    assert torch.autograd.gradcheck(lambda x: generalized_iou(x, others), boxes)


def test_empty_boxes_are_finite():
    point = torch.tensor([3.0, 3, 3, 3], requires_grad=True)
    for other in (point.detach(), point.detach() + 2, torch.tensor([0.0, 0, 9, 9])):
        value = generalized_iou(point, other)
        (gradient,) = torch.autograd.grad(value, point)
        assert -1 <= value <= 1 and gradient.isfinite().all()


def test_no_box():
    assert generalized_iou(torch.zeros(5, 1, 4), torch.zeros(0, 4)).shape == (5, 0)
