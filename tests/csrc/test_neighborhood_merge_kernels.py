"""The CUDA kernels of merging, run lane by lane on the CPU, against the twin."""

import pytest
import torch

import operator_checks as checks
from operator_inputs import neighborhood_merge_inputs
from segcore.ops import neighborhood_merge_reference

PARAMETERS = ("linear_weight", "linear_bias", "norm_weight", "norm_bias")
DIFFERENTIABLE = ("features", "importance", *PARAMETERS)


def run(on_host, arguments):
    return checks.run_kernels(on_host, "neighborhood_merge", arguments, DIFFERENTIABLE)


def assert_same(on_host, arguments, **tolerances):
    expected = checks.run_with_gradients(neighborhood_merge_reference, arguments, DIFFERENTIABLE)
    checks.assert_close(run(on_host, arguments), expected, **tolerances)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *((torch.float64, channels) for channels in (1, 5, 8, 14, 20, 40)),
        *((torch.float32, channels) for channels in (9, 32)),
        (torch.float16, 24),
        (torch.bfloat16, 8),
    ],
)
def test_channels(on_host, dtype, channels):
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-5}.get(dtype, 1e-2)
    arguments = neighborhood_merge_inputs(dtype=dtype, channels=channels)
    assert_same(on_host, arguments, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "tokens": 1, "queries": 1, "size": 1, "channels": 1},
        {"batch": 3, "tokens": 30, "queries": 20, "size": 48},
        {"mask": False},
        {"importance": False},
        {"queries": 0},
        {"batch": 0},
        {"size": 0},
        {"channels": 0},
    ],
    ids=str,
)
def test_sizes(on_host, sizes):
    assert_same(on_host, neighborhood_merge_inputs(**sizes))


def test_members_out_of_range_are_left_out(on_host):
    arguments = neighborhood_merge_inputs()
    members = arguments["members"]
    masked = arguments | {"mask": arguments["mask"].clone()}
    masked["mask"][:, 2:4] = False
    expected = run(on_host, masked)
    members[:, 2], members[:, 3] = 30, -1
    checks.assert_close(run(on_host, arguments), expected)
