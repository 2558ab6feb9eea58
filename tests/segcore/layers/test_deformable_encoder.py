from importlib import import_module

import pytest
import torch
from torch import nn

from segcore.layers import DeformableEncoder, DeformableEncoderLayer, grid_reference_points

SHAPES = [(2, 3), (4, 6)]


def inputs(batch=2, dim=16):
    torch.manual_seed(0)
    length = sum(h * w for h, w in SHAPES)
    reference_points = grid_reference_points(SHAPES)[None, :, None].expand(batch, -1, 2, -1)
    return torch.randn(batch, length, dim), torch.randn(1, length, dim), reference_points, SHAPES


def test_reference_points_are_cell_centers():
    points = grid_reference_points([(1, 2), (2, 1)])
    expected = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
    assert torch.equal(points, torch.tensor(expected))


def test_layer_is_post_norm():
    layer = DeformableEncoderLayer(16, num_levels=2, num_heads=4, feedforward_dim=8)
    tokens, positions, reference_points, shapes = inputs()
    attended = layer.self_attn(tokens + positions, reference_points, tokens, shapes)
    normed = layer.norm1(tokens + attended)
    expected = layer.norm2(normed + layer.linear2(layer.linear1(normed).relu()))
    actual = layer(tokens, positions, reference_points, shapes)
    torch.testing.assert_close(actual, expected)


def test_encoder_chains_layers_and_trains():
    encoder = DeformableEncoder(
        16, num_layers=2, num_levels=2, num_heads=4, feedforward_dim=8, dropout=0.5
    )
    arguments = inputs()
    with torch.no_grad():
        assert not torch.equal(encoder(*arguments), encoder(*arguments))
    encoder.eval()
    expected = arguments[0]
    for layer in encoder.layers:
        expected = layer(expected, *arguments[1:])
    actual = encoder(*arguments)
    assert torch.equal(actual, expected)
    actual.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("batch", [1, 2])
def test_inference_in_parts_equals_training(batch, monkeypatch):
    layer = DeformableEncoderLayer(16, num_levels=2, num_heads=4, feedforward_dim=8).eval()
    arguments = inputs(batch)
    expected = layer(*arguments)
    kept = [argument.clone() for argument in arguments[:3]]
    seen = []
    monkeypatch.setattr(import_module("segcore.layers.by_rows"), "ROWS", 16)
    with torch.no_grad():
        torch.testing.assert_close(layer(*arguments), expected)
        layer.linear2.register_forward_hook(lambda *hooked: seen.append(hooked[2].clone()))
        layer.linear2.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
        torch.testing.assert_close(layer(*arguments), expected)
    assert all(map(torch.equal, kept, arguments[:3]))
    assert all(map(torch.equal, seen[::2], seen[1::2]))


def test_padding_is_not_seen():
    encoder = DeformableEncoder(16, num_layers=1, num_levels=2, num_heads=4, feedforward_dim=8)
    for layer in encoder.layers:
        nn.init.normal_(layer.self_attn.sampling_offsets.bias)
    tokens, positions, reference_points, shapes = inputs()
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    mask[:, [2, 5]] = True
    changed = torch.where(mask[..., None], 7.0, tokens)
    with torch.no_grad():
        one, other = (
            encoder(x, positions, reference_points, shapes, mask)[~mask] for x in (tokens, changed)
        )
    torch.testing.assert_close(one, other)
