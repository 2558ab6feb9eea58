"""Ground truth of a batch: things of all images, centers of mass."""

import pytest
import torch

from panoptic_segformer.ground_truth import Stuff, Things, centers_of_mass, pixel_boxes
from panoptic_segformer_inputs import targets_of


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_things_of_all_images():
    targets = targets_of((2, 0, 3), (1, 0, 2))
    things = Things.from_targets(targets, predicted=torch.zeros(1, 4, dtype=torch.float64))
    assert things.counts == [2, 0, 3] and things.image.tolist() == [0, 0, 2, 2, 2]
    assert things.boxes.dtype == things.scale.dtype == torch.float64
    assert things.scale[0].tolist() == [55, 36, 55, 36]
    assert torch.equal(things.labels, torch.cat([target["labels"] for target in targets]))
    stuff = Stuff.from_targets(targets)
    assert stuff.image.tolist() == [0, 2, 2]
    assert torch.equal(stuff.labels, torch.cat([target["stuff_labels"] for target in targets]))


def test_pixel_boxes():
    scale = torch.tensor([100.0, 50, 100, 50])
    boxes = pixel_boxes(torch.tensor([[0.5, 0.5, 0.2, 0.4]]), scale)
    torch.testing.assert_close(boxes, torch.tensor([[40.0, 15, 60, 35]]))


def test_center_of_mass_by_hand():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)  # of an image of 4 x 5 pixels
    masks[0, 1, 2] = True  # one pixel: its center
    masks[1, :4, :5] = True  # the whole image
    otherwise = torch.full((3, 2), 0.3)
    expected = torch.tensor([[2.5 / 5, 1.5 / 4], [0.5, 0.5], [0.3, 0.3]])
    torch.testing.assert_close(centers_of_mass(masks, (4, 5), otherwise), expected)
    masks[2, 0, 0] = masks[2, 0, 4] = masks[2, 3, 4] = True
    center = centers_of_mass(masks, (4, 5), otherwise)[2]
    torch.testing.assert_close(
        center, torch.tensor([(0.5 + 4.5 + 4.5) / 15, (0.5 + 0.5 + 3.5) / 12])
    )


def test_centers_of_empty_masks_are_those_of_the_boxes():
    targets = targets_of((3, 2), (0, 0))
    targets[1]["masks"][0] = False
    things = Things.from_targets(targets, predicted=torch.zeros(1, 2))
    assert things.boxes.shape == (5, 2)
    assert torch.equal(things.boxes[3], targets[1]["boxes"][0, :2])
    assert not torch.equal(things.boxes[4], targets[1]["boxes"][1, :2])
    assert centers_of_mass(torch.zeros(0, 8, 8), (8, 8), torch.zeros(0, 2)).shape == (0, 2)
