"""The CUDA kernels of the operators with gradients on tokens in the plane, run lane by lane on the
CPU, against the twins."""

from functools import partial

import pytest
import torch

import operator_checks as checks
import operator_inputs
from segcore import ops

DIFFERENTIABLE = {
    "point_gather": ("features", "weights"),
    "neighborhood_merge": (
        "features", "importance", "linear_weight", "linear_bias", "norm_weight", "norm_bias",
    ),
    "point_deform_attn": ("values", "locations", "attention", "power"),
}  # fmt: skip
TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
OPERATORS = tuple(DIFFERENTIABLE)


def make_inputs(name, **options):
    return getattr(operator_inputs, f"{name}_inputs")(**options)


def run(on_host, name, arguments):
    return checks.run_kernels(on_host, name, arguments, DIFFERENTIABLE[name])


def assert_same(on_host, name, **options):
    tolerance = TOLERANCES[options.get("dtype", torch.float64)]
    checks.assert_kernels_match(
        on_host,
        name,
        getattr(ops, f"{name}_reference"),
        make_inputs(name, **options),
        DIFFERENTIABLE[name],
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *((torch.float64, channels) for channels in (0, 1, 7, 8, 14, 20, 40, 80)),
        *((torch.float32, channels) for channels in (9, 32)),
        (torch.float16, 24),
        (torch.bfloat16, 8),
    ],
)
def test_channels(on_host, name, dtype, channels):
    """As many as 4, 8, 16 and 32 lanes read at once, and more; numbers that allow no vectors."""
    assert_same(on_host, name, dtype=dtype, channels=channels)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *((name, {"queries": 0}) for name in OPERATORS),
        *((name, {"batch": 0}) for name in OPERATORS),
        ("point_gather", {"batch": 1, "tokens": 1, "queries": 1, "k": 1}),
        ("point_gather", {"batch": 3, "tokens": 50, "queries": 13, "k": 9}),
        ("point_gather", {"k": 0}),
        ("point_gather", {"batch": 1, "tokens": 10001, "channels": 2}),  # offsets of 64 bits
        ("neighborhood_merge", {"batch": 1, "tokens": 1, "queries": 1, "size": 1, "channels": 1}),
        ("neighborhood_merge", {"batch": 3, "tokens": 30, "queries": 20, "size": 48}),
        ("neighborhood_merge", {"batch": 1, "tokens": 10001, "channels": 2}),  # the same
        ("neighborhood_merge", {"mask": False}),
        ("neighborhood_merge", {"importance": False}),
        ("neighborhood_merge", {"size": 0}),
        ("point_deform_attn", {"batch": 1, "level_sizes": (1,), "heads": 1, "points": 1, "k": 1}),
        ("point_deform_attn", {"level_sizes": (5,), "k": 7, "points": 3, "canvas": (1, 40)}),
        ("point_deform_attn", {"batch": 1, "level_sizes": (5,), "canvas": (60, 90)}),  # the same
        ("point_deform_attn", {"spread": 100.0}),
        ("point_deform_attn", {"power": 1.0}),
        ("point_deform_attn", {"heads": 0}),
        ("point_deform_attn", {"points": 0}),
        ("point_deform_attn", {"level_sizes": ()}),
    ],
    ids=str,
)
def test_sizes(on_host, name, sizes):
    assert_same(on_host, name, **sizes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.float32, "channels": 32},
        {"dtype": torch.float16, "channels": 8},
        {"channels": 0},
        {"queries": 0},
        {"points": 0},
        {"level_sizes": ()},
    ],
    ids=str,
)
def test_deterministic_gradient(on_host, options):
    arguments = make_inputs("point_deform_attn", **options)
    arguments["neighbors"][..., 1] = -1
    expected = run(on_host, "point_deform_attn", arguments)
    names = DIFFERENTIABLE["point_deform_attn"]
    actual = checks.run_kernels(on_host, "point_deform_attn", arguments, names, deterministic=True)
    tolerance = TOLERANCES[options.get("dtype", torch.float64)]
    checks.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_indices_out_of_range_are_left_out(on_host):
    arguments = make_inputs("point_gather")
    arguments["indices"][:, 2:5], arguments["indices"][:, 7] = 11, -1
    counts = (arguments["indices"] >= 0) & (arguments["indices"] < 11)
    without = checks.changed(
        arguments, {name: lambda value: value.where(counts, 0) for name in ("indices", "weights")}
    )
    expected = run(on_host, "point_gather", without)
    expected["weights"] = expected["weights"].where(counts, 0)
    checks.assert_close(run(on_host, "point_gather", arguments), expected)


def test_members_out_of_range_are_left_out(on_host):
    arguments = make_inputs("neighborhood_merge")
    masked = arguments | {"mask": arguments["mask"].clone()}
    masked["mask"][:, 2:4] = False
    expected = run(on_host, "neighborhood_merge", masked)
    arguments["members"][:, 2], arguments["members"][:, 3] = 30, -1
    checks.assert_close(run(on_host, "neighborhood_merge", arguments), expected)


def test_neighbors_out_of_range_are_left_out(on_host):
    arguments = make_inputs("point_deform_attn")
    neighbors = arguments["neighbors"]
    neighbors[..., 1] = -1
    expected = run(on_host, "point_deform_attn", arguments)
    neighbors[..., 1] = 63  # the number of tokens
    checks.assert_close(run(on_host, "point_deform_attn", arguments), expected)


def test_locations_on_tokens(on_host):
    """Nothing flows to location and power."""
    arguments = make_inputs("point_deform_attn")
    arguments["locations"] = arguments["locations"].round()
    checks.assert_kernels_match(
        on_host,
        "point_deform_attn",
        ops.point_deform_attn_reference,
        arguments,
        DIFFERENTIABLE["point_deform_attn"],
    )


@pytest.mark.parametrize("place", [torch.nan, torch.inf, 1e30])
def test_wild_locations_leave_the_other_queries_alone(on_host, place):
    arguments = make_inputs("point_deform_attn")
    operator = partial(run, on_host, "point_deform_attn")
    expected = operator(arguments)["output"]
    arguments["locations"][:, 0] = place
    actual = operator(arguments)["output"]
    assert torch.equal(actual[:, 1:], expected[:, 1:])
    assert place == 1e30 or actual[:, 0].isnan().all()


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("point_gather", "weights"),
        ("neighborhood_merge", "centers"),
        ("point_deform_attn", "locations"),
    ],
)
def test_arguments_are_checked(on_host, name, argument):
    arguments = make_inputs(name)
    arguments[argument] = arguments[argument].float()
    with pytest.raises(RuntimeError, match=f"{argument}: expected Double, got Float"):
        getattr(on_host, name)(*arguments.values())
