"""The CUDA kernels of weighted sums of tokens, run lane by lane on the CPU, against the twin."""

import pytest
import torch

import operator_checks as checks
from operator_inputs import point_gather_inputs
from segcore.ops import point_gather_reference

DIFFERENTIABLE = ("features", "weights")


def assert_same(on_host, arguments, **tolerances):
    actual = checks.run_kernels(on_host, "point_gather", arguments, DIFFERENTIABLE)
    expected = checks.run_with_gradients(point_gather_reference, arguments, DIFFERENTIABLE)
    checks.assert_close(actual, expected, **tolerances)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *((torch.float64, channels) for channels in (1, 7, 8, 12, 20, 64, 80)),
        *((torch.float32, channels) for channels in (7, 16, 32, 64, 256)),
        *((torch.float16, channels) for channels in (3, 24)),
        (torch.bfloat16, 8),
    ],
)
def test_channels(on_host, dtype, channels):
    tolerances = {"rtol": 1e-2, "atol": 1e-2} if dtype.itemsize == 2 else {}
    assert_same(on_host, point_gather_inputs(dtype=dtype, channels=channels), **tolerances)


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "tokens": 1, "queries": 1, "k": 1},
        {"batch": 3, "tokens": 50, "queries": 13, "k": 9},
        {"queries": 0},
        {"batch": 0},
        {"k": 0},
        {"channels": 0},
    ],
    ids=str,
)
def test_sizes(on_host, sizes):
    assert_same(on_host, point_gather_inputs(**sizes))


def test_indices_out_of_range_are_left_out(on_host):
    arguments = point_gather_inputs()
    indices, weights = arguments["indices"], arguments["weights"]
    indices[:, 2:5], indices[:, 7] = 11, -1
    counts = (indices >= 0) & (indices < 11)
    kept = {"indices": indices.where(counts, 0), "weights": weights.where(counts, 0)}
    actual = checks.run_kernels(on_host, "point_gather", arguments, DIFFERENTIABLE)
    expected = checks.run_kernels(on_host, "point_gather", arguments | kept, DIFFERENTIABLE)
    expected["weights"] = expected["weights"].where(counts, 0)
    checks.assert_close(actual, expected)


def test_arguments_are_checked(on_host):
    arguments = point_gather_inputs()
    arguments["weights"] = arguments["weights"].float()
    with pytest.raises(RuntimeError, match="weights: expected Double, got Float"):
        on_host.point_gather(*arguments.values())
