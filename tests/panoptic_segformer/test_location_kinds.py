"""Coordinates of things: centers of mass, and what the choice of a kind decides."""

import pytest
import torch

from panoptic_segformer.location_kinds import (
    BoxLocation,
    CenterLocation,
    centers_of_mass,
    location_kind_of,
)
from panoptic_segformer_inputs import collected, targets_of
from segcore.config import get_cfg

SCALE = torch.tensor([100.0, 50, 100, 50])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_center_of_mass_by_hand():
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0, 1, 2] = True  # one pixel: its center
    masks[1, :4, :5] = True
    masks[2, 0, 0] = masks[2, 0, 4] = masks[2, 3, 4] = True
    center = [(0.5 + 4.5 + 4.5) / 3, (0.5 + 0.5 + 3.5) / 3]
    expected = torch.tensor([[2.5, 1.5], [2.5, 2], center, [torch.nan, torch.nan]])
    torch.testing.assert_close(centers_of_mass(masks, torch.float32), expected, equal_nan=True)
    assert centers_of_mass(masks[:0], torch.float64).shape == (0, 2)


def test_centers_are_relative_to_the_image_without_padding():
    targets = targets_of((0, 2), (0, 0))
    targets[1].masks[:] = False
    targets[1].masks[0, :18, :28] = True  # half of the image of 36 x 56 pixels, and all of it
    targets[1].masks[1, :36, :56] = True
    centers = CenterLocation().true(collected(targets).things)
    torch.testing.assert_close(centers, torch.tensor([[0.25, 0.25], [0.5, 0.5]]).double())


def test_centers_of_empty_masks_are_those_of_the_boxes():
    targets = targets_of((3, 2), (0, 0))
    targets[1].masks[0] = False
    centers = CenterLocation().true(collected(targets).things)
    assert centers.shape == (5, 2) and centers.dtype == torch.float64
    assert torch.equal(centers[3], targets[1].boxes[0, :2])
    assert not torch.equal(centers[4], targets[1].boxes[1, :2])


def test_costs_and_losses_of_boxes():
    """Half of the box is right, and the image is wider than high."""
    true, predicted = torch.tensor([[0.5, 0.5, 0.2, 0.4]]), torch.tensor([[0.55, 0.5, 0.1, 0.4]])
    kind = BoxLocation(l1_weight=2.0, giou_weight=3.0)
    expected = {"L1": 2 * 0.15, "GIoU": -3 * 0.5}
    assert {k: v.item() for k, v in kind.costs(predicted, true, SCALE).items()} == pytest.approx(
        expected
    )
    expected = {"loss_bbox": 2 * 0.15, "loss_iou": 3 * 0.5}
    assert {k: v.item() for k, v in kind.losses(predicted, true, SCALE).items()} == pytest.approx(
        expected
    )
    assert kind.boxes(predicted) is predicted


def test_centers_have_no_overlap_and_no_boxes():
    true, predicted = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.6, 0.3]])
    kind = CenterLocation(l1_weight=2.0)
    for values, name in ((kind.costs, "L1"), (kind.losses, "loss_centre")):
        assert {k: v.item() for k, v in values(predicted, true, SCALE).items()} == pytest.approx(
            {name: 0.6}
        )
    assert kind.boxes(predicted) is None


def test_kind_of_the_config():
    keys = get_cfg().MODEL.PANOPTIC_SEGFORMER
    keys.L1_WEIGHT, keys.GIOU_WEIGHT = 4.0, 3.0
    assert location_kind_of(keys) == BoxLocation(l1_weight=4, giou_weight=3)
    keys.LOCATION_TARGET = "centre"
    assert location_kind_of(keys) == CenterLocation(l1_weight=4)
    keys.LOCATION_TARGET = "x"
    with pytest.raises(
        ValueError, match=r"LOCATION_TARGET: expected 'box', 'centre' or 'none', got 'x'"
    ):
        location_kind_of(keys)
