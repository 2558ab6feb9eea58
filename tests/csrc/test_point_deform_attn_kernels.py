"""The CUDA kernels of attention over points, run lane by lane on the CPU, against the twin."""

import pytest
import torch

import operator_checks as checks
from operator_inputs import point_deform_attn_inputs
from segcore.ops import point_deform_attn_reference

DIFFERENTIABLE = ("values", "locations", "attention", "power")


def run(on_host, arguments):
    return checks.run_kernels(on_host, "point_deform_attn", arguments, DIFFERENTIABLE)


def assert_same(on_host, arguments, **tolerances):
    expected = checks.run_with_gradients(point_deform_attn_reference, arguments, DIFFERENTIABLE)
    checks.assert_close(run(on_host, arguments), expected, **tolerances)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *((torch.float64, channels) for channels in (1, 7, 8, 12, 20, 40)),
        *((torch.float32, channels) for channels in (7, 32)),
        (torch.float16, 24),
        (torch.bfloat16, 8),
    ],
)
def test_channels(on_host, dtype, channels):
    tolerance = {torch.float64: 1e-7, torch.float32: 2e-5}.get(dtype, 1e-2)
    arguments = point_deform_attn_inputs(dtype=dtype, channels=channels)
    assert_same(on_host, arguments, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "level_sizes": (1,), "heads": 1, "queries": 1, "points": 1, "k": 1},
        {"level_sizes": (5,), "k": 7, "points": 3, "canvas": (1, 40)},
        {"spread": 100.0},
        {"power": 1.0},
        {"queries": 0},
        {"batch": 0},
        {"heads": 0},
        {"channels": 0},
        {"points": 0},
        {"level_sizes": ()},
    ],
    ids=str,
)
def test_sizes(on_host, sizes):
    assert_same(on_host, point_deform_attn_inputs(**sizes))


def test_locations_on_tokens_and_between_cells(on_host):
    arguments = point_deform_attn_inputs()
    locations = arguments["locations"]
    locations[:, ::2] = locations[:, ::2].round()
    locations[:, 1::2] = locations[:, 1::2].floor() + 0.5
    assert_same(on_host, arguments)


@pytest.mark.parametrize("place", [torch.nan, torch.inf, 1e30])
def test_wild_locations_leave_the_other_queries_alone(on_host, place):
    arguments = point_deform_attn_inputs()
    expected = run(on_host, arguments)["output"]
    arguments["locations"][:, 0] = place
    actual = run(on_host, arguments)["output"]
    assert torch.equal(actual[:, 1:], expected[:, 1:])
    assert place == 1e30 or actual[:, 0].isnan().all()


def test_neighbours_out_of_range_are_left_out(on_host):
    arguments = point_deform_attn_inputs()
    neighbours = arguments["neighbours"]
    neighbours[..., 1] = -1
    expected = run(on_host, arguments)
    neighbours[..., 1] = 63  # the number of tokens
    checks.assert_close(run(on_host, arguments), expected)
