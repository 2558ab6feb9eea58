"""CUDA kernels of multi-scale deformable attention, lane by lane on the CPU, against the twin."""

import pytest
import torch

import operator_checks as checks
from segcore.ops import ms_deform_attn_reference

DIFFERENTIABLE = ("value", "sampling_locations", "attention_weights")


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
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    batch, queries, heads = 2, 3, 3
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
    expected = checks.run_with_gradients(ms_deform_attn_reference, arguments, DIFFERENTIABLE)
    arguments["spatial_shapes"] = [side for size in levels for side in size]
    actual = checks.run_kernels(on_host, "ms_deform_attn", arguments, DIFFERENTIABLE)
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-4}.get(dtype, 1e-2)
    checks.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_too_many_levels_are_refused(on_host):
    value, locations = torch.zeros(1, 65, 1, 4), torch.zeros(1, 1, 1, 65, 1, 2)
    with pytest.raises(RuntimeError, match="spatial_shapes: expected at most 64 levels on CUDA"):
        on_host.ms_deform_attn(value, [1, 1] * 65, locations, locations[..., 0])
