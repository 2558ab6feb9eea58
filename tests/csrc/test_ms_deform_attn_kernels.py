"""CUDA kernels of multi-scale deformable attention, lane by lane on the CPU, against the twin."""

from functools import partial

import pytest
import torch

from operator_checks import assert_deformable_kernels_match
from operator_inputs import ms_deform_attn_inputs
from segcore.ops import ms_deform_attn_reference

assert_matches_twin = partial(
    assert_deformable_kernels_match,
    name="ms_deform_attn",
    twin=ms_deform_attn_reference,
    differentiable=("value", "sampling_locations", "attention_weights"),
    double_tolerance=1e-7,
)


@pytest.mark.parametrize(
    ("dtype", "channels", "levels", "points"),
    [
        (torch.float64, 0, [(3, 4)], 2),
        (torch.float64, 1, [(3, 4)], 1),
        (torch.float64, 71, [(3, 4), (1, 1), (2, 5)], 3),
        (torch.float64, 8, [(3, 4), (2, 2), (5, 1)], 4),
        (torch.float64, 12, [(3, 4), (2, 2)], 2),
        (torch.float64, 32, [(3, 4), (2, 2), (5, 1)], 4),
        (torch.float32, 7, [(3, 4), (2, 2)], 20),
        (torch.float32, 16, [(3, 4), (2, 2)], 4),
        (torch.float32, 32, [(6, 4), (3, 2), (2, 1)], 4),
        (torch.float32, 64, [(3, 4)], 4),
        (torch.float32, 256, [(3, 4), (2, 2)], 2),
        (torch.float16, 32, [(6, 4), (3, 2), (2, 1)], 4),
        (torch.bfloat16, 40, [(3, 4), (2, 2)], 4),
    ],
)
def test_matches_twin(on_host, dtype, channels, levels, points):
    """Any number of queries; 32 and 64 bits of offsets; channels read at once and in parts."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    batch, queries, heads = 2, 13, 3
    tokens = sum(height * width for height, width in levels)
    samples = (batch, queries, heads, len(levels), points)
    locations = torch.rand(*samples, 2, generator=generator) * 1.6 - 0.3
    locations[0, 0, 0, 0, 0] = torch.tensor([torch.inf, 0.5])
    locations[0, 1, 0, 0, 0] = torch.tensor([0.5, torch.nan])
    arguments = {
        "value": torch.randn(batch, tokens, heads, channels, generator=generator).to(dtype),
        "spatial_shapes": levels,
        "sampling_locations": locations.to(precision),
        "attention_weights": torch.randn(samples, generator=generator).to(precision),
    }
    assert_matches_twin(on_host, arguments)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.5])
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.float64, 4), (torch.float32, 32), (torch.float32, 64), (torch.bfloat16, 32)],
)
def test_queries_that_are_the_cells(on_host, dtype, channels, spread):
    """Blocks of neighboring cells; with little spread, neighbors share corners and add up rows."""
    generator = torch.Generator().manual_seed(0)
    levels, heads, points = [(9, 11), (3, 4)], 2, 2
    centers = [
        torch.stack(torch.meshgrid(axis(width), axis(height), indexing="xy"), -1).flatten(0, 1)
        for height, width in levels
    ]
    centers = torch.cat(centers)[None, :, None, None, None]
    samples = (1, centers.shape[1], heads, len(levels), points)
    offsets = torch.randn(*samples, 2, generator=generator) * spread
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    value = torch.randn(1, centers.shape[1], heads, channels, generator=generator)
    arguments = {
        "value": value.to(dtype),
        "spatial_shapes": levels,
        "sampling_locations": (centers + 0.04 + offsets).to(precision),
        "attention_weights": torch.randn(samples, generator=generator).to(precision),
    }
    assert_matches_twin(on_host, arguments)


def axis(size):
    """Centers of the cells of an axis."""
    return (torch.arange(size) + 0.5) / size


def test_unaligned_arguments(on_host):
    arguments = ms_deform_attn_inputs(dtype=torch.float32, channels=8)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            storage = torch.cat([value.new_zeros(1), value.flatten()])
            arguments[name] = storage[1:].view(value.shape)
    assert_matches_twin(on_host, arguments)


def test_too_many_levels_are_refused(on_host):
    value, locations = torch.zeros(1, 65, 1, 4), torch.zeros(1, 1, 1, 65, 1, 2)
    with pytest.raises(RuntimeError, match="spatial_shapes: expected at most 64 levels on CUDA"):
        on_host.ms_deform_attn(value, [1, 1] * 65, locations, locations[..., 0])
