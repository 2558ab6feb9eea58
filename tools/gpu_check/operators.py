"""Every operator, in every type, at even, odd, usual and empty sizes. Errors of outputs and
gradients against the twin in float64, relative to the largest value, worst of all sizes; they may
be twice those of the twin in the same type and, where sums are in the type itself, some roundings
more. "CPU" is the difference from the CPU kernels in the same type. Triton serves where there is no
CUDA library. Then gradients against finite differences, and autocast, which must change nothing:
the types of the arguments decide."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.peers import triton_cluster_attention, triton_ms_deform_attn
from torch.autograd import gradcheck

from segcore import ops
from tools.gpu_check import cases
from tools.gpu_check.cases import (
    SIZES,
    SUMS_IN_ANOTHER_ORDER,
    largest_difference,
    make_arguments,
)
from tools.gpu_check.results import Check, Unavailable, checks

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROUNDINGS = {torch.float64: 256, torch.float32: 256}  # of long sums; halves are summed in float32

TRITON = {
    "ms_deform_attn": triton_ms_deform_attn,
    "cluster_attention": triton_cluster_attention,
}


def run(device: str) -> Iterator[Check]:
    yield from checks(_claims(device))


def _claims(device: str) -> Iterator[tuple[str, Callable[[], str]]]:
    for name in SIZES:
        for dtype in DTYPES:
            title = f"{name}, {str(dtype).removeprefix('torch.')}"
            yield title, partial(_compare, name, dtype, device)
            if name in TRITON:
                yield f"{title}, Triton", partial(_compare_triton, name, dtype, device)
        yield f"{name}, gradcheck", partial(_gradcheck, name, device)
        yield f"{name}, autocast", partial(_autocast, name, device)
    for kind in ("grid", "random", "far away"):
        yield f"knn, {kind}", partial(_knn, kind, device)
    yield "balanced_clusters", partial(_balanced_clusters, device)


def _compare_triton(name: str, dtype: torch.dtype, device: str) -> str:
    if device != "cuda":
        raise Unavailable("needs a GPU")
    kernels = TRITON[name]()
    return _compare(name, dtype, device, lambda **arguments: kernels(*arguments.values()))


def _compare(
    name: str, dtype: torch.dtype, device: str, function: Callable[..., torch.Tensor] | None = None
) -> str:
    """Compare an operator, or ``function`` in its place."""
    error = twin_error = cpu = 0.0
    for options in SIZES[name]:
        arguments = make_arguments(name, dtype, device, **options)
        ours = cases.run(function or cases.operator(name), arguments)
        exact = cases.run(cases.twin(name), cases.change(arguments, _to_float64))
        error = max(error, largest_difference(ours, exact))
        theirs = cases.run(cases.twin(name), arguments)
        twin_error = max(twin_error, largest_difference(theirs, exact))
        on_cpu = cases.run(cases.operator(name), cases.change(arguments, lambda t: t.cpu()))
        cpu = max(cpu, largest_difference(ours, on_cpu))
    limit = 2 * twin_error + ROUNDINGS.get(dtype, 0.01) * torch.finfo(dtype).eps
    assert error <= limit, f"error {error:.1e}, at most {limit:.1e}"
    assert cpu <= 2 * limit, f"{cpu:.1e} from the CPU kernels, at most {2 * limit:.1e}"
    return f"error {error:.1e}, twin {twin_error:.1e}, CPU {cpu:.1e}"


def _to_float64(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _gradcheck(name: str, device: str) -> str:
    arguments = make_arguments(name, torch.float64, device, channels=2)
    if name == "point_deform_attn":  # away from the edges of cells, where the neighbors change
        locations = arguments["locations"]
        offsets = (locations - locations.round()).clamp(-0.4, 0.4)
        arguments["locations"] = locations.round() + offsets
    names = [key for key in cases.run(cases.operator(name), arguments) if key != "output"]

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return cases.operator(name)(**(arguments | dict(zip(names, tensors, strict=True))))

    inputs = [arguments[key].detach().requires_grad_() for key in names]
    # Fast mode, and sums by atomics may differ in the last bits.
    gradcheck(function, inputs, fast_mode=True, nondet_tol=1e-9)
    return "gradients of " + ", ".join(names)


def _autocast(name: str, device: str) -> str:
    for dtype in (torch.float32, torch.float16):
        arguments = make_arguments(name, dtype, device)
        expected = cases.run(cases.operator(name), arguments)
        with torch.autocast(device, torch.bfloat16):
            results = cases.run(cases.operator(name), arguments)
        assert results["output"].dtype == dtype, f"{dtype} became {results['output'].dtype}"
        difference = largest_difference(results, expected)
        limit = max(SUMS_IN_ANOTHER_ORDER, 4 * torch.finfo(dtype).eps)
        assert difference <= limit, f"differs by {difference:.1e}"
    return "changes nothing"


def _knn(kind: str, device: str) -> str:
    queries, points = cases.operator_inputs.knn_inputs(kind, queries=400, points=900)
    near = ops.knn(queries.to(device), points.to(device), 7)
    assert torch.equal(near.cpu(), ops.knn(queries, points, 7)), "differs from the CPU kernel"
    assert torch.equal(near, ops.knn_reference(queries.to(device), points.to(device), 7)), (
        "differs from the twin"
    )
    return "equal to CPU kernel and twin"


def _balanced_clusters(device: str) -> str:
    tokens = cases.operator_inputs.tokens_on_canvas(40, 50, 777)
    results = ops.balanced_clusters(tokens.to(device), 8, (40, 50))
    for expected in (
        ops.balanced_clusters(tokens, 8, (40, 50)),
        ops.balanced_clusters_reference(tokens.to(device), 8, (40, 50)),
    ):
        for ours, theirs in zip(results, expected, strict=True):
            assert torch.equal(ours.cpu(), theirs.cpu()), "differs"
    return "equal to CPU kernel and twin"
