import pytest
import torch
from detectron2.layers import ShapeSpec

from autofocusformer.pixel_decoder import PointConvolution
from mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from segcore.backbones.features import TokenShape

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}
SHAPES = {
    name: TokenShape(channels=channels, stride=4 * 2**number)
    for number, (name, channels) in enumerate(CHANNELS.items())
}
DIM = 16


@pytest.fixture
def features(scatter):
    """All 48 cells, then 12, 6 and 2 of them: fewer than the 4 neighbors of an interpolation."""
    counts = (48, 12, 6, 2)
    return {
        name: scatter((6, 8), count, channels, seed=count)
        for (name, channels), count in zip(CHANNELS.items(), counts, strict=True)
    }


def test_outputs(build_pixel_decoder, features):
    decoder = build_pixel_decoder(SHAPES)
    mask_features, coarsest, levels = decoder.forward_features(features)
    assert mask_features.features.shape == (2, 48, DIM)
    assert mask_features.positions is features["res2"].positions
    assert [level.features.shape[1] for level in levels] == [2, 6, 12]
    assert coarsest is levels[0]
    loss = mask_features.features.sum() + sum(level.features.square().sum() for level in levels)
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_runs_in_float32_under_autocast(build_pixel_decoder, features):
    decoder = build_pixel_decoder(SHAPES)
    expected, _, _ = decoder.forward_features(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _, levels = decoder.forward_features(features)
    assert torch.equal(actual.features, expected.features)
    half = {name: tokens.with_features(tokens.features.half()) for name, tokens in features.items()}
    actual, _, levels = decoder.forward_features(half)
    assert {tokens.features.dtype for tokens in (actual, *levels)} == {torch.float32}


@torch.no_grad()
def test_autocast_where_it_is_asked_for(build_pixel_decoder, features):
    decoder = build_pixel_decoder(SHAPES, autocast=True)
    expected, _, expected_levels = decoder.forward_features(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _, levels = decoder.forward_features(features)
    for half, full in zip((actual, *levels), (expected, *expected_levels), strict=True):
        assert half.features.dtype == torch.bfloat16
        assert half.positions.dtype == torch.float32
        assert (half.features - full.features).norm() <= 0.04 * full.features.norm()


@torch.no_grad()
def test_convolution_is_a_window_inside_a_grid(scatter):
    """The 9 nearest of an inner cell are its 3 x 3 window: what is outside cannot matter."""
    torch.manual_seed(0)
    convolution = PointConvolution(4, 6)
    tokens = scatter((7, 7), 49, 4)
    x, y = tokens.positions.unbind(-1)
    near = ((x - 3).abs() <= 1) & ((y - 3).abs() <= 1)
    changed = tokens.with_features(torch.where(near[..., None], tokens.features, 9.0))
    center = (x == 3) & (y == 3)
    assert torch.equal(convolution(tokens)[center], convolution(changed)[center])
    moved = tokens.with_features(torch.where(near[..., None], 9.0, tokens.features))
    assert not torch.allclose(convolution(tokens)[center], convolution(moved)[center])


def test_maps_and_tokens_are_told_apart(build_pixel_decoder, features):
    decoder = build_pixel_decoder(SHAPES)
    maps = {name: torch.zeros(1, channels, 8, 8) for name, channels in CHANNELS.items()}
    with pytest.raises(TypeError, match=r"features: expected tokens .* as res2, got Tensor"):
        decoder.forward_features(maps)
    with pytest.raises(ValueError, match=r"input_shape: expected maps, got tokens"):
        MSDeformAttnPixelDecoder(
            SHAPES,
            conv_dim=DIM,
            mask_dim=DIM,
            norm="GN",
            transformer_in_features=["res3", "res4", "res5"],
            common_stride=4,
            num_encoder_layers=1,
            num_heads=2,
            dropout=0.0,
        )


def test_four_features_are_needed(build_pixel_decoder):
    with pytest.raises(ValueError, match=r"input_shape: expected 4 features .*got \['res2'\]"):
        build_pixel_decoder({"res2": ShapeSpec(channels=8, stride=4)})
