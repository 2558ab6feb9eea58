"""Initial values of the official code: ranges, means, spreads, constants."""

import math

import pytest
import torch

from panoptic_segformer.encoder import MultiScaleEncoder
from panoptic_segformer.location_decoder import LocationDecoder
from panoptic_segformer.mask_decoder import MaskDecoder
from panoptic_segformer.neck import ChannelMapper

LOG_99 = math.log(99)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_xavier(matrix):
    """Uniform in +-sqrt(6 / (fan in + fan out)); small ones may miss the ends."""
    receptive = matrix[0][0].numel()
    bound = math.sqrt(6 / ((matrix.shape[0] + matrix.shape[1]) * receptive))
    assert matrix.abs().max() <= bound
    if matrix.numel() > 1000:
        assert matrix.abs().max() > 0.98 * bound
        assert abs(matrix.mean()) < 4 * bound / math.sqrt(3 * matrix.numel())
        assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def assert_normal(table):
    assert abs(table.mean()) < 4 / math.sqrt(table.numel())
    assert table.std().item() == pytest.approx(1, rel=0.05)


def test_channel_mapper():
    neck = ChannelMapper([64, 96, 128], 256)
    for convolution in (*neck.lateral, *neck.extra):
        assert_xavier(convolution.weight)
        assert convolution.bias is None and convolution.norm.eps == 1e-5


def test_encoder():
    encoder = MultiScaleEncoder(256, num_layers=1, num_levels=4, dropout=0.1)
    assert_normal(encoder.level_embed)
    (layer,) = encoder.layers
    attention = layer.self_attn
    for linear in (layer.linear1, layer.linear2, attention.value_proj, attention.output_proj):
        assert_xavier(linear.weight)
    assert not attention.value_proj.bias.any() and not attention.attention_weights.weight.any()
    assert not attention.sampling_offsets.weight.any()
    # Head 1 of 8 looks along the diagonal; point 3 of every level is three cells away.
    offsets = attention.sampling_offsets.bias.view(8, 4, 4, 2)
    torch.testing.assert_close(offsets[1, :, 2], torch.full((4, 2), 3.0))


@pytest.mark.parametrize("num_coordinates", [4, 2])
def test_location_decoder(num_coordinates):
    decoder = LocationDecoder(256, num_classes=80, num_layers=2, num_coordinates=num_coordinates)
    assert_normal(decoder.query_embed.weight)
    assert decoder.query_embed.weight.shape == (300, 512)
    assert_xavier(decoder.reference_points.weight)
    assert not decoder.reference_points.bias.any()
    layer = decoder.layers[0]
    for matrix in (layer.self_attn.in_proj_weight, layer.linear1.weight, layer.linear2.weight):
        assert_xavier(matrix)
    for branch in decoder.class_embed:
        torch.testing.assert_close(branch.bias, torch.full((80,), -LOG_99))
    first, second = (branch.layers[-1] for branch in decoder.bbox_embed)
    assert not first.weight.any() and not second.weight.any() and not second.bias.any()
    assert first.bias.tolist() == ([0, 0, -2, -2][:num_coordinates])


@pytest.mark.parametrize("self_attention", [True, False])
def test_mask_decoder(self_attention):
    decoder = MaskDecoder(256, num_layers=1, self_attention=self_attention)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() > 1:
            assert_xavier(parameter)
        elif "norm" not in name:  # PyTorch's default: uniform in +-1 / sqrt(fan in)
            assert parameter.any() and parameter.abs().max() <= 1 / math.sqrt(8)
    assert decoder.layers[0].norm1.eps == decoder.layers[0].norm2.eps == 1e-6
    tail = sum(p.numel() for name, p in decoder.tail.named_parameters() if "mask" in name)
    assert tail == 241


def test_stuff_queries_and_classes(build_small_model):
    model = build_small_model()
    assert model.stuff_query_embed.weight.shape == (2, 128)
    assert abs(model.stuff_query_embed.weight.std() - 1) < 0.2
    for branch in model.stuff_class_embed:
        assert branch.bias.item() == pytest.approx(-LOG_99)
