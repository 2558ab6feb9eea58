"""Bilinear values at points, of maps and of masks, and the choice of uncertain points."""

import pytest
import torch

from segcore.losses import MaskSampler, point_sample, uncertain_points, uniform_points


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_point_sample_at_pixel_centers_and_outside():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    y, x = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
    centers = torch.stack([(x + 0.5) / 3, (y + 0.5) / 2], dim=-1).view(1, 6, 2)
    torch.testing.assert_close(point_sample(maps, centers).view(2, 3), maps[0, 0])
    corner = torch.zeros(1, 1, 2)  # a quarter of the first pixel, zeros around it
    assert point_sample(maps + 4, corner).item() == pytest.approx(1)
    assert point_sample(maps + 4, corner - 1).item() == 0


def test_point_sample_shares_points_between_maps():
    maps, points = torch.randn(4, 2, 5, 7), torch.rand(1, 11, 2)
    shared = point_sample(maps, points)
    assert shared.shape == (4, 2, 11)
    torch.testing.assert_close(shared, point_sample(maps, points.repeat(4, 1, 1)))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 0, 4, 4)])
def test_point_sample_of_nothing(shape):
    assert point_sample(torch.zeros(shape), torch.rand(shape[0], 5, 2)).shape == (*shape[:2], 5)


def test_point_sample_gradients():
    maps = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: point_sample(m, points), maps)


def test_point_sample_names_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(N or 1, P, 2\), got \(1, 1, 4, 4\) and \(5, 2\)"):
        point_sample(torch.zeros(1, 1, 4, 4), torch.rand(5, 2))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 33)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_mask_sampler_equals_point_sample(size, dtype):
    masks = (torch.rand(6, *size) > 0.5).to(dtype)
    rows = torch.tensor([3, 0, 0, 5])
    points = torch.rand(4, 100, 2, dtype=torch.float64)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1, 0], [0, 1], [1, 1]])
    expected = point_sample(masks[rows, None].double(), points).squeeze(1)
    torch.testing.assert_close(MaskSampler(masks)(rows, points), expected)


def test_mask_sampler_shares_points_and_takes_none():
    masks, points = torch.rand(3, 8, 9) > 0.5, torch.rand(1, 20, 2)
    rows = torch.arange(3)
    sampler = MaskSampler(masks)
    torch.testing.assert_close(sampler(rows, points), sampler(rows, points.repeat(3, 1, 1)))
    assert sampler(rows[:0], points).shape == (0, 20)
    assert MaskSampler(masks[:0])(rows[:0], points).shape == (0, 20)


def test_mask_sampler_leaves_masks_as_they_are():
    masks = torch.rand(3, 8, 9) > 0.5
    before = masks.clone()
    MaskSampler(masks)(torch.arange(3), torch.rand(3, 20, 2))
    assert torch.equal(masks, before)
    with pytest.raises(ValueError, match=r"masks: expected \(N, H, W\)"):
        MaskSampler(masks[0])


def test_uncertain_points_are_where_the_logit_is_small():
    # Logits fall from 8 to -8 along x: uncertain in the middle.
    logits = torch.linspace(8, -8, 64).expand(3, 64, 64)
    points = uncertain_points(
        logits, 400, oversample_ratio=3, importance_sample_ratio=0.75, draw_points=uniform_points
    )
    assert points.shape == (3, 400, 2)
    distance = (points[..., 0] - 0.5).abs()
    assert distance[:, :300].max() < 0.2  # 300 of 1200: the middle quarter, |x - 0.5| < 0.125
    assert distance[:, 300:].max() > 0.4  # the rest is uniform


def test_uncertain_points_keep_exactly_the_smallest():
    logits = torch.randn(2, 16, 16)
    candidates = torch.rand(2, 30, 2)
    points = uncertain_points(
        logits,
        10,
        importance_sample_ratio=1.0,
        draw_points=lambda *size, **_: candidates[:, : size[1]],
    )
    certainty = point_sample(logits[:, None], candidates)[:, 0].abs()
    expected = candidates.gather(1, certainty.argsort(1)[:, :10, None].expand(-1, -1, 2))
    assert {tuple(p) for p in points[0].tolist()} == {tuple(p) for p in expected[0].tolist()}


def test_uncertain_points_need_no_gradient_and_take_nothing():
    points = uncertain_points(torch.zeros(0, 4, 4, requires_grad=True), 8)
    assert points.shape == (0, 8, 2)
    assert not points.requires_grad


@pytest.mark.parametrize("ratios", [(0.5, 0.75), (3.0, 1.5), (3.0, -0.1)])
def test_uncertain_points_refuse_ratios(ratios):
    with pytest.raises(ValueError, match="oversample_ratio >= 1"):
        uncertain_points(
            torch.zeros(1, 4, 4), 8, oversample_ratio=ratios[0], importance_sample_ratio=ratios[1]
        )


@pytest.mark.parametrize("width", [4, 8, 32])
def test_same_points_serve_every_size(width):
    """A map that holds the x of its pixels' centers gives the x of a point at any resolution."""
    maps = ((torch.arange(width) + 0.5) / width).expand(1, 1, width, width)
    points = 0.25 + 0.5 * torch.rand(1, 50, 2)
    torch.testing.assert_close(point_sample(maps, points)[0, 0], points[0, :, 0])
