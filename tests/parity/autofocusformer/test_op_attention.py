"""The official attention operators on given member lists, values and gradients."""

import pytest
import torch

from parity.golden import parametrize_cases
from segcore.ops.gather_reference import neighbourhood_av, neighbourhood_qk


def check_operator(case, operator, names, dtype, comparison):
    arrays = {name: torch.from_numpy(array) for name, array in case.arrays.items()}
    inputs = [arrays[f"in_{name}"].to(dtype).requires_grad_() for name in names]
    output = operator(*inputs, arrays["in_idx"].long())
    grads = torch.autograd.grad(output, inputs, arrays["grad_out"].to(dtype))
    atol, rtol = case.info["atol"], case.info["rtol"]
    results = {"out": output, **{f"grad_{n}": g for n, g in zip(names, grads, strict=True)}}
    for name, actual in results.items():
        torch.testing.assert_close(actual, arrays[name].to(dtype), atol=atol, rtol=rtol)
        comparison.close(name, actual, arrays[name], atol + rtol * float(arrays[name].abs().max()))
    comparison.check()


types = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_qk")
def test_qk(case, dtype, comparison):
    check_operator(case, neighbourhood_qk, ("query", "key"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_av")
def test_av(case, dtype, comparison):
    check_operator(case, neighbourhood_av, ("attn", "value"), dtype, comparison)
