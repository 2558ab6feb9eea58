"""Padding of a batch: where images lie on the maps, and that it changes no result."""

import pytest
import torch

from panoptic_segformer.padding import PaddedShapes, nearest_size
from segcore.inference import PanopticMerging

SHAPES = PaddedShapes([(2, 3), (1, 2)], [[(2, 3), (1, 2)], [(2, 2), (1, 1)]], torch.device("cpu"))


def photo(rows, columns, **extra):
    generator = torch.Generator().manual_seed(rows)
    return {"image": torch.randint(0, 256, (3, rows, columns), generator=generator), **extra}


def assert_equal_results(found, expected):
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], atol=1e-11, rtol=0)
    assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
    torch.testing.assert_close(found["panoptic_seg"][1], expected["panoptic_seg"][1])
    ours, theirs = found["instances"], expected["instances"]
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-11, rtol=0)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("with_boxes", [True, False])
@torch.no_grad()
def test_neither_padding_nor_companions_change_a_result(build_perturbed_model, with_boxes):
    photos = [photo(50, 73, height=100, width=140), photo(64, 33), photo(50, 73), photo(41, 96)]
    photos[2]["image"] = photos[2]["image"].flip(-1)
    merging = PanopticMerging("mask_wise", quality_thresholds=(0.01, 0.01))
    model = build_perturbed_model(with_boxes=with_boxes, results={"merging": merging})
    alone = [model([one])[0] for one in photos]
    for result in alone:
        assert result["panoptic_seg"][1] and len(result["instances"]) == 21
        assert result["instances"].pred_masks.any(dim=(1, 2)).sum() > 1
    for found, expected in zip(model(photos), alone, strict=True):
        assert_equal_results(found, expected)
    for divisor in (32, 50):
        model.size_divisibility = divisor
        assert_equal_results(model(photos[:1])[0], alone[0])
        assert_equal_results(model(photos[::-1])[3], alone[0])


@torch.no_grad()
def test_padding_that_the_backbone_needs(build_perturbed_model, build_pyramid):
    """It is cut off again, and companions change nothing."""
    model = build_perturbed_model(backbone=build_pyramid(size_divisibility=32))
    photos = [photo(50, 73), photo(64, 33)]
    assert_equal_results(model(photos)[0], model(photos[:1])[0])
    maps, shapes, padded_size = model._features([model.normalized(one["image"]) for one in photos])
    assert shapes.valid_shapes[0] == [(7, 10), (4, 5), (2, 3), (1, 2)]
    assert padded_size == (64, 73) and maps[0].shape[-2:] == (8, 10)


@torch.no_grad()
def test_official_padding(build_perturbed_model):
    """It matters, and is the only difference between the two."""
    photos = [photo(50, 73), photo(64, 96)]
    official, ours = build_perturbed_model(official_padding=True), build_perturbed_model()
    alone = ours(photos[:1])[0]
    assert_equal_results(official(photos[:1])[0], alone)
    padded = official(photos)[0]
    assert not torch.allclose(padded["sem_seg"], alone["sem_seg"], atol=1e-3)


def test_masks_and_ratios():
    assert SHAPES.padded and SHAPES.num_tokens == 8
    assert SHAPES.token_mask().int().tolist() == [[0] * 8, [0, 0, 1, 0, 0, 1, 0, 1]]
    expected = torch.tensor([[[1.0, 1], [1, 1]], [[2 / 3, 1], [1 / 2, 1]]])
    torch.testing.assert_close(SHAPES.valid_ratios(), expected)
    first = SHAPES.first(1)
    assert first.spatial_shapes == [(2, 3)] and first.valid_shapes == [[(2, 3)], [(2, 2)]]


def test_no_padding():
    shapes = PaddedShapes([(2, 3)], [[(2, 3)]] * 2, torch.device("cpu"))
    assert not shapes.padded and shapes.masks() is None and shapes.token_mask() is None
    assert (shapes.valid_ratios() == 1).all()


def test_reference_points_keep_their_place_in_the_image():
    points = SHAPES.reference_points()
    assert points.shape == (2, 8, 2, 2)
    # The right of the two valid cells of row 0: 3/4 of the width, 1/4 of the height of the image.
    on_maps = torch.tensor([[3 / 4 * 2 / 3, 1 / 4], [3 / 4 * 1 / 2, 1 / 4]])
    torch.testing.assert_close(points[1, 1], on_maps)
    torch.testing.assert_close(points[0, 1], torch.tensor([[0.5, 0.25]] * 2))


def test_valid_tokens():
    tokens = torch.arange(8.0)[:, None]
    assert SHAPES.valid_tokens(tokens, 0)[:, 0].tolist() == list(range(8))
    assert SHAPES.valid_tokens(tokens, 1)[:, 0].tolist() == [0, 1, 3, 4, 6]


def test_official_size_is_that_of_nearest_neighbors():
    # Cells 0, 1, 2 of 4 look at pixels 0, 2, 5 of 10.
    assert nearest_size((5, 6), (10, 10), (4, 4)) == (2, 3)
    assert nearest_size((10, 10), (10, 10), (3, 4)) == (3, 4)
