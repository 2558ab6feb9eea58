"""The official gather operators, and ours with the same meaning, on given lists."""

import pytest
import torch

from parity.golden import parametrize_cases
from segcore.ops import point_gather, point_gather_reference
from segcore.ops.gather_reference import (
    deformable_gather_points,
    neighbourhood_weighted_feature,
    weighted_gather,
)

types = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def check_operator(case, operator, names, dtype, comparison):
    """``operator(members, *inputs)`` against value and gradients of the case."""
    arrays = {name: torch.from_numpy(array) for name, array in case.arrays.items()}
    inputs = [arrays[f"in_{name}"].to(dtype).requires_grad_() for name in names]
    output = operator(arrays["in_idx"].long(), *inputs)
    grads = torch.autograd.grad(output, inputs, arrays["grad_out"].to(dtype))
    atol, rtol = case.info["atol"], case.info["rtol"]
    results = {"out": output, **{f"grad_{n}": g for n, g in zip(names, grads, strict=True)}}
    for name, actual in results.items():
        torch.testing.assert_close(actual, arrays[name].to(dtype), atol=atol, rtol=rtol)
        comparison.close(name, actual, arrays[name], atol + rtol * float(arrays[name].abs().max()))
    comparison.check()


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_weighted_feature")
def test_weighted_feature(case, dtype, comparison):
    def operator(members, weights, features):
        return neighbourhood_weighted_feature(weights, features, members)

    check_operator(case, operator, ("weights", "feat"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_weighted_gather")
def test_weighted_gather(case, dtype, comparison):
    check_operator(case, weighted_gather, ("weights", "feat"), dtype, comparison)


@types
@pytest.mark.parametrize("public", [point_gather, point_gather_reference])
@parametrize_cases("autofocusformer", "op_weighted_gather")
def test_point_gather(case, public, dtype, comparison):
    def operator(members, weights, features):
        return public(features, members, weights)

    check_operator(case, operator, ("weights", "feat"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_deformable_gather_points")
def test_deformable_gather(case, dtype, comparison):
    names = ("weights", "attn", "value")
    check_operator(case, deformable_gather_points, names, dtype, comparison)
