"""Golden cases of operators: values and gradients on given lists of members."""

import pytest
import torch

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
