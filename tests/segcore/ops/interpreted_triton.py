"""The operators in Triton on the CPU, by Triton's interpreter, against their twins.

Run by ``test_triton.py`` in a process of its own, since Triton has to be imported with
TRITON_INTERPRET=1.
"""

import sys
from importlib import import_module
from unittest.mock import patch

import pytest
import torch

import operator_checks as checks
from operator_inputs import cluster_attention_inputs, ms_deform_attn_inputs
from segcore import ops
from segcore.ops import ClusterNeighborhood, _triton

DIFFERENTIABLE = {
    "ms_deform_attn": ("value", "sampling_locations", "attention_weights"),
    "cluster_attention": ("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v"),
}
# The interpreter truncates numbers to bfloat16, which a GPU rounds.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module", autouse=True)
def triton_serves_the_cpu():
    """The Triton functions in the places of the compiled ones."""
    library = torch.library.Library("segcore", "IMPL", "CPU")
    for name in DIFFERENTIABLE:
        for function in (name, f"{name}_backward"):
            library.impl(function, _triton.deferred(name, function), allow_override=True)
    yield library


def assert_same(name, arguments, dtype=torch.float64):
    tolerance = TOLERANCES[dtype]
    operator, twin = getattr(ops, name), getattr(ops, f"{name}_reference")
    checks.assert_same(
        operator, twin, arguments, DIFFERENTIABLE[name], rtol=tolerance, atol=tolerance
    )
    assert f"segcore.ops._triton.{name}" in sys.modules


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ({"channels": 32, "queries": 5}, torch.float32),
        ({"batch": 2, "channels": 7, "queries": 19, "points": 3}, torch.float64),
        ({"channels": 515, "queries": 2, "points": 1}, torch.float64),
        ({"spatial_shapes": [(1, 1)], "queries": 1, "points": 1, "heads": 1}, torch.float64),
        ({"spread": 100.0, "points": 1}, torch.float64),
        ({"queries": 0}, torch.float32),
        ({"points": 0}, torch.float32),
        ({"channels": 0, "points": 1}, torch.float32),
    ],
    ids=str,
)
def test_ms_deform_attn(sizes, dtype):
    defaults = {"batch": 1, "heads": 2, "points": 2, "spatial_shapes": [(6, 5), (1, 3)]}
    assert_same("ms_deform_attn", ms_deform_attn_inputs(**defaults | sizes, dtype=dtype), dtype)


@pytest.mark.parametrize("location", [1e30, -torch.inf, torch.nan])
def test_samples_far_outside_contribute_nothing(location):
    arguments = ms_deform_attn_inputs(batch=1, heads=1, queries=2, points=1)
    arguments["sampling_locations"][..., 1] = location
    results = checks.run_with_gradients(
        ops.ms_deform_attn, arguments, DIFFERENTIABLE["ms_deform_attn"]
    )
    assert all((result == 0).all() for result in results.values())


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ({"channels": 32, "tokens": 35, "clusters_per_token": 5}, torch.float32),
        ({"batch": 2, "tokens": 19, "channels": 7, "cluster_size": 3}, torch.float64),
        ({"tokens": 28, "cluster_size": 24, "clusters_per_token": 2}, torch.float64),
        ({"tokens": 20, "cluster_size": 20, "clusters_per_token": 1}, torch.float64),
        ({"tokens": 3, "cluster_size": 1, "channels": 33, "heads": 1}, torch.float64),
        ({"tokens": 6, "clusters_per_token": 0}, torch.float64),
        ({"tokens": 6, "channels": 0, "clusters_per_token": 1}, torch.float64),
        ({"tokens": 0, "clusters_per_token": 0}, torch.float64),
    ],
    ids=str,
)
def test_cluster_attention(sizes, dtype):
    defaults = {"batch": 1, "heads": 2, "clusters_per_token": 2}
    assert_same(
        "cluster_attention", cluster_attention_inputs(**defaults | sizes, dtype=dtype), dtype
    )


def test_a_cluster_that_is_named_twice_counts_twice():
    clusters = torch.tensor([[1, 0, 1], [0, 0, 0]]).repeat(1, 7, 1)
    neighborhood = ClusterNeighborhood(clusters, 8)
    arguments = cluster_attention_inputs(batch=1, tokens=14, heads=1, neighborhood=neighborhood)
    assert_same("cluster_attention", arguments)


HALF_INPUTS = {
    "ms_deform_attn": lambda dtype: ms_deform_attn_inputs(
        batch=1, heads=1, points=2, channels=32, dtype=dtype
    ),
    "cluster_attention": lambda dtype: cluster_attention_inputs(
        batch=1, tokens=24, heads=2, channels=32, dtype=dtype
    ),
}


@pytest.mark.parametrize("name", HALF_INPUTS)
def test_float16_error_is_at_most_twice_that_of_pytorch(name):
    operator, twin = getattr(ops, name), getattr(ops, f"{name}_reference")
    arguments = HALF_INPUTS[name](torch.float16)
    checks.assert_half_error_at_most_twice_pytorchs(operator, twin, arguments, DIFFERENTIABLE[name])


@pytest.mark.parametrize("name", HALF_INPUTS)
def test_bfloat16(name):
    assert_same(name, HALF_INPUTS[name](torch.bfloat16), torch.bfloat16)


def test_registered_well():
    arguments = ms_deform_attn_inputs(batch=1, heads=1, queries=2, points=1, dtype=torch.float32)
    arguments = checks.with_flat_sizes(arguments)
    name = "ms_deform_attn"
    checks.assert_registered_well(name, arguments, DIFFERENTIABLE[name])


@pytest.mark.parametrize(
    "sizes", [{"spread": 0.2}, {"channels": 0}, {"queries": 0}, {"heads": 0}], ids=str
)
def test_deterministic_gradient_of_the_value(sizes):
    """Many samples read the same few cells; nothing is added by atomics."""
    defaults = {"batch": 2, "heads": 2, "points": 2, "spatial_shapes": [(6, 5), (1, 3)]}
    arguments = ms_deform_attn_inputs(**defaults | sizes, dtype=torch.float32)
    module = import_module("segcore.ops._triton.ms_deform_attn")
    add_up, sums = module._sum_over_sorted_corners, []

    def spy(grad_value, *others):
        sums.append(grad_value.abs().sum())
        add_up(grad_value, *others)

    torch.use_deterministic_algorithms(True)
    try:
        with patch.object(module, "_sum_over_sorted_corners", spy):
            assert_same("ms_deform_attn", arguments, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    assert sums == [0]


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (
            ops.ms_deform_attn,
            {
                "value": torch.zeros(1, 1, 1, 1).expand(1, 2**25, 1, 1),
                "spatial_shapes": [(2**25, 1)],
                "sampling_locations": torch.zeros(1, 1, 1, 1, 1, 2),
                "attention_weights": torch.zeros(1, 1, 1, 1, 1),
            },
            "spatial_shapes: expected sides of at most 16777216 in Triton, got 33554432",
        ),
        (
            ops.cluster_attention,
            cluster_attention_inputs(
                tokens=2, channels=257, clusters_per_token=1, dtype=torch.half
            ),
            "q: expected at most 256 channels a head in Triton, got 257",
        ),
    ],
    ids=["sides", "channels"],
)
def test_limits_are_named(operator, arguments, message):
    with pytest.raises(ValueError, match=message):
        operator(**arguments)
