import pytest
import torch
import torch.nn.functional as F

SHAPES = {"res2": (4, 16, 20), "res3": (6, 8, 10), "res4": (8, 4, 5), "res5": (10, 2, 3)}


def features(dtype=torch.float32, batch=2):
    torch.manual_seed(0)
    return {name: torch.randn(batch, *shape, dtype=dtype) for name, shape in SHAPES.items()}


def test_maps_from_coarse_to_fine(build_pixel_decoder):
    mask_features, encoded, maps = build_pixel_decoder(mask_dim=7).forward_features(features())
    assert mask_features.shape == (2, 7, 16, 20)
    assert encoded is maps[0]
    assert [tuple(m.shape) for m in maps] == [(2, 32, 2, 3), (2, 32, 4, 5), (2, 32, 8, 10)]


@pytest.mark.parametrize("batch", [1, 2])
def test_maps_are_resized_in_channels_last_memory(build_pixel_decoder, batch):
    _, _, maps = build_pixel_decoder().forward_features(features(batch=batch))
    for encoded in maps:
        resized = F.interpolate(encoded, scale_factor=2, mode="bilinear")
        assert resized.is_contiguous(memory_format=torch.channels_last)


def test_images_of_a_batch_are_independent(build_pixel_decoder):
    decoder = build_pixel_decoder().double()
    batch = features(torch.float64)
    together, _, _ = decoder.forward_features(batch)
    alone, _, _ = decoder.forward_features({name: x[1:] for name, x in batch.items()})
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_promoted_and_autocast_is_off(build_pixel_decoder, dtype):
    decoder = build_pixel_decoder()
    halves = features(dtype)
    expected, _, _ = decoder.forward_features({name: x.float() for name, x in halves.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _, _ = decoder.forward_features(halves)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


@torch.no_grad()
def test_autocast_where_it_is_asked_for(build_pixel_decoder):
    decoder = build_pixel_decoder(autocast=True)
    expected, _, expected_maps = decoder.forward_features(features())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _, maps = decoder.forward_features(features())
    for half, full in zip((actual, *maps), (expected, *expected_maps), strict=True):
        assert half.dtype == torch.bfloat16
        assert (half - full).norm() <= 0.04 * full.norm()


def test_without_norm_the_convolutions_have_biases(build_pixel_decoder):
    assert build_pixel_decoder().adapter_1.bias is None
    decoder = build_pixel_decoder(norm="")
    assert decoder.adapter_1.bias is not None and decoder.layer_1.bias is not None
    assert decoder.adapter_1.norm is None


def test_more_fpn_levels(build_pixel_decoder):
    """With two encoded features the FPN makes two levels, named after their features."""
    decoder = build_pixel_decoder(transformer_in_features=["res4", "res5"])
    names = {name.split(".")[0] for name, _ in decoder.named_parameters()}
    assert names >= {"adapter_1", "layer_1", "adapter_2", "layer_2"}
    mask_features, _, maps = decoder.forward_features(features())
    assert mask_features.shape[-2:] == (16, 20)
    assert [tuple(m.shape[-2:]) for m in maps] == [(2, 3), (4, 5), (8, 10)]


def test_bad_features(build_pixel_decoder):
    with pytest.raises(ValueError, match=r"transformer_in_features: expected .*\['res9'\]"):
        build_pixel_decoder(transformer_in_features=["res9"])
    with pytest.raises(ValueError, match="expected at least 3 maps, got 1 of the encoder"):
        build_pixel_decoder(transformer_in_features=["res5"], common_stride=16)
