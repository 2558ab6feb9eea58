"""Padding of a batch: where images lie on the maps, and that it changes no result."""

import pytest
import torch

from panoptic_segformer.batching import OfficialPadding, SeparateSizes, by_image, join
from panoptic_segformer.location_kinds import BoxLocation, CenterLocation
from panoptic_segformer.mask_decoder import MaskOutput
from panoptic_segformer.padding import PaddedShapes, nearest_size
from segcore.backbones import D2SwinTransformer, PyramidVisionTransformerV2
from segcore.inference import PanopticMerging

CPU = torch.device("cpu")
SHAPES = PaddedShapes([(2, 3), (1, 2)], 2, [[(2, 3), (1, 2)], [(2, 2), (1, 1)]], CPU)


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


@pytest.mark.parametrize("location_kind", [BoxLocation(), CenterLocation()])
@torch.no_grad()
def test_neither_padding_nor_companions_change_a_result(build_perturbed_model, location_kind):
    photos = [photo(50, 73, height=100, width=140), photo(64, 33), photo(50, 73), photo(41, 96)]
    photos[2]["image"] = photos[2]["image"].flip(-1)
    merging = PanopticMerging("mask_wise", quality_thresholds=(0.01, 0.01))
    model = build_perturbed_model(location_kind=location_kind, results={"merging": merging})
    alone = [model([one])[0] for one in photos]
    for result in alone:
        assert result["panoptic_seg"][1] and len(result["instances"]) == 21
        assert result["instances"].pred_masks.any(dim=(1, 2)).sum() > 1
    for found, expected in zip(model(photos), alone, strict=True):
        assert_equal_results(found, expected)
    model.size_divisibility = 50
    assert_equal_results(model(photos[::-1])[3], alone[0])


@torch.no_grad()
def test_padding_that_the_backbone_needs(build_perturbed_model, build_pyramid):
    """It is cut off again, and companions change nothing."""
    model = build_perturbed_model(backbone=build_pyramid(size_divisibility=32))
    photos = [photo(50, 73), photo(64, 33)]
    assert_equal_results(model(photos)[0], model(photos[:1])[0])
    (first, *_) = model.batches(photos)
    assert model.network(first.images).masks.shape[-2:] == (7, 10)


@pytest.mark.parametrize("backbone", [D2SwinTransformer, PyramidVisionTransformerV2])
@torch.no_grad()
def test_backbones_that_accept_any_size_get_no_padding(backbone):
    """Published models were tested without, although their batches were padded in training."""
    torch.manual_seed(0)
    model = backbone(depths=(1, 1, 1, 1)).eval()
    images = torch.randn(1, 3, 75, 101)
    found, expected = SeparateSizes().features(model, images), model(images)
    assert [feature.shape[-2:] for feature in found.values()] == [
        (19, 26), (10, 13), (5, 7), (3, 4)
    ]  # fmt: skip
    for name, feature in found.items():
        torch.testing.assert_close(feature, expected[name], rtol=0, atol=0)


@torch.no_grad()
def test_official_padding(build_perturbed_model):
    """It matters, and is the only difference between the two."""
    photos = [photo(50, 73), photo(64, 96)]
    official, ours = (
        build_perturbed_model(padding_policy=OfficialPadding()),
        build_perturbed_model(),
    )
    alone = ours(photos[:1])[0]
    assert_equal_results(official(photos[:1])[0], alone)
    padded = official(photos)[0]
    assert not torch.allclose(padded["sem_seg"], alone["sem_seg"], atol=1e-3)


def test_masks_and_ratios():
    assert SHAPES.num_tokens == 8 and [SHAPES.finest(i) for i in (0, 1)] == [(2, 3), (2, 2)]
    assert SHAPES.token_mask().int().tolist() == [[0] * 8, [0, 0, 1, 0, 0, 1, 0, 1]]
    expected = torch.tensor([[[1.0, 1], [1, 1]], [[2 / 3, 1], [1 / 2, 1]]])
    torch.testing.assert_close(SHAPES.valid_ratios(), expected)
    first = SHAPES.first(1)
    assert first.spatial_shapes == [(2, 3)] and first.valid_shapes == [[(2, 3)], [(2, 2)]]


def test_no_padding():
    shapes = PaddedShapes([(2, 3)], 2, None, CPU)
    assert shapes.masks() is None and shapes.token_mask() is None and shapes.finest(1) == (2, 3)
    assert torch.equal(shapes.valid_ratios(), torch.ones(2, 1, 2))
    padded = PaddedShapes([(2, 3)], 2, [[(2, 3)]] * 2, CPU)
    assert torch.equal(shapes.reference_points(), padded.reference_points())


def test_reference_points_keep_their_place_in_the_image():
    points = SHAPES.reference_points()
    assert points.shape == (2, 8, 2, 2)
    # The right of the two valid cells of row 0: 3/4 of the width, 1/4 of the height of the image.
    on_maps = torch.tensor([[3 / 4 * 2 / 3, 1 / 4], [3 / 4 * 1 / 2, 1 / 4]])
    torch.testing.assert_close(points[1, 1], on_maps)
    torch.testing.assert_close(points[0, 1], torch.tensor([[0.5, 0.25]] * 2))


def test_shapes_of_maps():
    """Images of 5 x 6 and 10 x 10 pixels in a batch of 10 x 10."""
    maps = [torch.zeros(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, 1, 2, 2).double()]
    shapes = PaddedShapes.from_maps(maps, (10, 10), [(5, 6), (10, 10)])
    assert shapes.spatial_shapes == [(4, 4), (2, 2)] and shapes.num_images == 2
    assert shapes.valid_shapes == [[(2, 3), (1, 2)], [(4, 4), (2, 2)]]
    assert shapes.dtype == torch.float64
    assert PaddedShapes.from_maps(maps, (10, 10)).valid_shapes is None


def blank(*size):
    return torch.full((3, *size), float(sum(size)))


def test_images_of_one_size_go_together():
    images = [blank(4, 6), blank(2, 3), blank(4, 6), blank(6, 4)]
    batches = SeparateSizes().batches(images, 32)
    assert [batch.indices for batch in batches] == [[0, 2], [1], [3]]
    assert [tuple(batch.images.shape) for batch in batches] == [
        (2, 3, 4, 6),
        (1, 3, 2, 3),
        (1, 3, 6, 4),
    ]
    assert all(batch.image_sizes is None for batch in batches)


def test_all_images_go_together():
    (batch,) = OfficialPadding().batches([blank(4, 6), blank(2, 3)], 5)
    assert batch.images.shape == (2, 3, 5, 10) and batch.indices == [0, 1]
    assert batch.image_sizes == [(4, 6), (2, 3)]
    assert batch.images[1].sum() == blank(2, 3).sum()
    (batch,) = OfficialPadding().batches([blank(4, 6)] * 2, 2)
    assert batch.image_sizes is None


def test_outputs_return_to_the_order_of_images():
    images = [blank(4, 6), blank(2, 3), blank(4, 6)]
    batches = SeparateSizes().batches(images, 1)
    assert by_image(batches, ["ac", "b"]) == ["a", "b", "c"]
    outputs = [
        MaskOutput([batch.images, 2 * batch.images], [batch.images[:, 0, :2, :2]]).padded((5, 6))
        for batch in batches
    ]
    (first, second), (queries,) = join(batches, outputs)
    assert first.shape == (3, 3, 5, 6) and torch.equal(second, 2 * first)
    for joined, of_queries, image in zip(first, queries, images, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(joined[:, :height, :width], image) and joined.sum() == image.sum()
        assert torch.equal(of_queries, image[0, :2, :2])


def test_official_size_is_that_of_nearest_neighbors():
    # Cells 0, 1, 2 of 4 look at pixels 0, 2, 5 of 10.
    assert nearest_size((5, 6), (10, 10), (4, 4)) == (2, 3)
    assert nearest_size((10, 10), (10, 10), (3, 4)) == (3, 4)
