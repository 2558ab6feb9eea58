"""Checks of operators against their twins and against PyTorch's rules."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

from segcore.ops._library import has_kernel, is_compiled

HALF_TYPES = [torch.float16, torch.bfloat16]


def needs_binary(name):
    return pytest.mark.skipif(
        not is_compiled(name, "cpu"), reason="segcore/_C.abi3.so has not been built"
    )


def devices(name):
    """Run a test on the CPU, and on a GPU where there is one with the operator's kernel."""
    needs_gpu = pytest.mark.skipif(
        not (torch.cuda.is_available() and has_kernel(name, "cuda")),
        reason="needs a GPU and a kernel of the operator for it",
    )
    return pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


def changed(arguments, change):
    """Return arguments by name, edited by the functions in ``change``."""
    return arguments | {name: edit(arguments[name]) for name, edit in change.items()}


def with_flat_sizes(arguments):
    """Return arguments as schemas have them: ``spatial_shapes`` as H_1, W_1, H_2, W_2, ..."""
    if "spatial_shapes" not in arguments:
        return arguments
    return arguments | {"spatial_shapes": [side for s in arguments["spatial_shapes"] for side in s]}


def run_with_gradients(operator, arguments, differentiable):
    """Return output and gradients by name, if any, for a fixed upstream gradient."""
    arguments = dict(arguments)
    inputs = {
        name: arguments[name].detach().requires_grad_()
        for name in differentiable
        if arguments[name] is not None
    }
    output = operator(**(arguments | inputs))
    if not inputs:
        return {"output": output}
    grads = torch.autograd.grad(output, list(inputs.values()), upstream_gradient(output))
    return {"output": output.detach(), **dict(zip(inputs, grads, strict=True))}


def upstream_gradient(output):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def run_kernels(operators, name, arguments, differentiable, **mode):
    """Do :func:`run_with_gradients` with an operator and its backward in a namespace of
    ``torch.ops``, without autograd; arguments as the schema has them, ``mode`` of the backward."""
    arguments = {
        key: value.detach() if isinstance(value, torch.Tensor) else value
        for key, value in arguments.items()
    }
    output = getattr(operators, name)(*arguments.values())
    backward = getattr(operators, f"{name}_backward")
    grads = backward(upstream_gradient(output), *arguments.values(), **mode)
    results = {"output": output, **dict(zip(differentiable, grads, strict=True))}
    return {name: value for name, value in results.items() if arguments.get(name, 0) is not None}


def assert_kernels_match(
    operators, name, twin, arguments, differentiable, modes=({},), **tolerances
):
    """:func:`assert_same` for an operator in a namespace of ``torch.ops``, in each mode of its
    backward."""
    expected = run_with_gradients(twin, arguments, differentiable)
    arguments = with_flat_sizes(arguments)
    for mode in modes:
        actual = run_kernels(operators, name, arguments, differentiable, **mode)
        assert_close(actual, expected, **tolerances)


def assert_deformable_kernels_match(
    operators, arguments, *, name, twin, differentiable, double_tolerance
):
    """:func:`assert_kernels_match` for a deformable attention in both modes of its backward; half
    types are compared as far as they are exact."""
    tolerances = {torch.float64: double_tolerance, torch.float32: 1e-4}
    tolerance = tolerances.get(arguments["value"].dtype, 1e-2)
    modes = ({"deterministic": False}, {"deterministic": True})
    assert_kernels_match(
        operators, name, twin, arguments, differentiable, modes, rtol=tolerance, atol=tolerance
    )


def assert_same(operator, twin, arguments, differentiable, **tolerances):
    """Check for equal types and close values, relative to the largest, of outputs and gradients."""
    actual = run_with_gradients(operator, arguments, differentiable)
    expected = run_with_gradients(twin, arguments, differentiable)
    assert_close(actual, expected, **tolerances)


def assert_close(actual, expected, **tolerances):
    """Compare results by name, as :func:`assert_same`."""
    for name, theirs in expected.items():
        ours = actual[name]
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours / scale,
            theirs / scale,
            msg=lambda text, name=name: f"{name}: {text}",
            **tolerances,
        )


def assert_gradcheck(operator, arguments, differentiable):
    """Compare gradients of float64 arguments with finite differences."""
    inputs = [arguments[name].detach().clone().requires_grad_() for name in differentiable]
    assert gradcheck(
        lambda *tensors: operator(**(arguments | dict(zip(differentiable, tensors, strict=True)))),
        inputs,
        nondet_tol=1e-12,  # of sums by atomics on a GPU
    )


def assert_half_error_at_most_twice_pytorchs(operator, twin, arguments, differentiable):
    """Limit the error by that of the twin on the same half values, against the twin in float64."""
    exact_arguments = {
        name: value.double()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in arguments.items()
    }
    exact = run_with_gradients(twin, exact_arguments, differentiable)
    theirs = run_with_gradients(twin, arguments, differentiable)
    ours = run_with_gradients(operator, arguments, differentiable)
    for name, truth in exact.items():
        assert ours[name].dtype == theirs[name].dtype
        limit = 2 * (theirs[name] - truth).abs().max() + 1e-5 * truth.abs().max()
        assert (ours[name] - truth).abs().max() <= limit, name


def assert_independent_of_threads(operator, arguments, differentiable):
    """Check for equal bits with every number of threads."""
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(run_with_gradients(operator, arguments, differentiable))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for name, expected in results[0].items():
            assert torch.equal(other[name], expected), name


def assert_compiles(operator, arguments, differentiable, dynamic):
    """Check that there is no graph break, and that results are the same."""
    compiled = torch.compile(operator, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    expected = run_with_gradients(operator, arguments, differentiable)
    actual = run_with_gradients(compiled, arguments, differentiable)
    torch.testing.assert_close(actual, expected)


def assert_registered_well(name, arguments, differentiable):
    """Run PyTorch's checks of schema, fake kernel and autograd, forward and backward; arguments as
    the schema has them."""
    operator = getattr(torch.ops.segcore, name).default
    backward = getattr(torch.ops.segcore, f"{name}_backward").default
    inputs = {
        key: value.detach().requires_grad_()
        if key in differentiable and value is not None
        else value
        for key, value in arguments.items()
    }
    opcheck(operator, tuple(inputs.values()))
    grad_output = torch.randn_like(operator(*arguments.values()))
    opcheck(backward, (grad_output, *arguments.values()))


def assert_second_derivative_is_refused(operator, arguments, name):
    arguments = arguments | {name: arguments[name].detach().requires_grad_()}
    output = operator(**arguments)
    (grad,) = torch.autograd.grad(output.square().sum(), arguments[name], create_graph=True)
    with pytest.raises(NotImplementedError, match="_reference"):
        grad.sum().backward()
