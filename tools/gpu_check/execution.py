"""How operators run: on a stream of their own behind work that is still going on; recorded in a
CUDA graph and replayed on other values; on a GPU that is not the current one; through
`torch.compile`; twenty times over, for equal bits, which all promise but the gradients of `value`
of `ms_deform_attn` and `ms_deform_attn_with_logits` and of `values` of `point_deform_attn`; and
under `torch.use_deterministic_algorithms(True)`, where an operator gives equal bits or refuses."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.common import deterministic_algorithms

from segcore import ops
from segcore.ops._library import why_not_compiled
from tools.gpu_check import cases
from tools.gpu_check.cases import (
    SUMS_IN_ANOTHER_ORDER,
    Arguments,
    Results,
    different_bits,
    largest_difference,
)
from tools.gpu_check.results import Check, Unavailable, checks

SIZES = {name: options[2] for name, options in cases.SIZES.items()}
ATOMIC_GRADIENTS = {
    "ms_deform_attn": {"value"},
    "ms_deform_attn_with_logits": {"value"},
    "point_deform_attn": {"values"},
}
REPEATS = 20
CYCLES_OF_SLEEP = 50_000_000  # some 30 ms


def run(device: str) -> Iterator[Check]:
    yield from checks(_claims(device))


def _claims(device: str) -> Iterator[tuple[str, Callable[[], str]]]:
    for name in [*SIZES, "knn", "balanced_clusters"]:
        for claim in (_stream, _graph, _other_device, _compile, _repeat, _deterministic):
            yield (
                f"{name}, {claim.__name__.strip('_').replace('_', ' ')}",
                partial(claim, name, device),
            )


def _arguments(name: str, device: str) -> Arguments:
    if name in SIZES:
        arguments = cases.make_arguments(name, torch.float32, device, **SIZES[name])
        if name == "cluster_attention":
            arguments["neighborhood"].inverse_lists()  # made once a stage, not by the operator
        return arguments
    tokens = cases.operator_inputs.tokens_on_canvas(64, 64, 2048).to(device)
    if name == "knn":
        return {"queries": tokens, "points": tokens[:, ::3].contiguous(), "k": 6}
    return {"positions": tokens, "cluster_size": 8, "canvas": (64, 64)}


def _run(name: str, arguments: Arguments, function: Callable | None = None) -> Results:
    """Run an operator, or ``function`` in its place."""
    function = function or cases.operator(name)
    if name in SIZES:
        return cases.run(function, arguments)
    results = function(**arguments)
    results = results if isinstance(results, tuple) else (results,)
    return {f"output {i}": result for i, result in enumerate(results)}


def _assert_same(name: str, results: Results, expected: Results) -> None:
    """Check for equal bits, or for close values where sums are made by atomics."""
    atomic = ATOMIC_GRADIENTS.get(name, set())
    different = set(different_bits(results, expected))
    assert different <= atomic, f"other values: {', '.join(sorted(different - atomic))}"
    difference = largest_difference(results, expected)
    assert difference <= SUMS_IN_ANOTHER_ORDER, f"differs by {difference:.1e}"


def _needs_kernels(name: str, device: str) -> None:
    """The twins promise neither: some wait for the GPU."""
    if device != "cuda":
        raise Unavailable("needs a GPU")
    if problem := why_not_compiled(name, device):
        raise Unavailable(problem)


def _stream(name: str, device: str) -> str:
    """A kernel on another stream would read the zeros."""
    _needs_kernels(name, device)
    arguments = _arguments(name, device)
    expected = _run(name, arguments)
    late = cases.change(arguments, torch.zeros_like)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES_OF_SLEEP)
        _copy(arguments, late)
        results = _run(name, late)
    stream.synchronize()
    _assert_same(name, results, expected)
    return "waits for the work before it"


def _graph(name: str, device: str) -> str:
    """No allocation by size of data, no waiting: else the recording fails."""
    _needs_kernels(name, device)
    arguments = _arguments(name, device)
    expected = _run(name, arguments)
    recorded = cases.change(arguments, torch.clone)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _run(name, recorded)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    _copy(cases.change(arguments, torch.zeros_like), recorded)
    with torch.cuda.graph(graph):
        results = _run(name, recorded)
    _copy(arguments, recorded)
    graph.replay()
    torch.cuda.synchronize()
    _assert_same(name, results, expected)
    return "forward and backward" if name in SIZES else "forward"


def _copy(source: Arguments, target: Arguments) -> None:
    """Copy values into tensors in place."""
    for name, value in source.items():
        if isinstance(value, torch.Tensor):
            target[name].copy_(value)
        elif isinstance(value, ops.ClusterNeighborhood):
            target[name].clusters.copy_(value.clusters)
            pairs = zip(target[name].inverse_lists(), value.inverse_lists(), strict=True)
            for into, list_ in pairs:
                into.copy_(list_)


def _other_device(name: str, device: str) -> str:
    _needs_kernels(name, device)
    if torch.cuda.device_count() < 2:
        raise Unavailable("needs two GPUs")
    expected = _run(name, _arguments(name, "cuda:0"))
    results = _run(name, _arguments(name, "cuda:1"))  # while 0 is the current one
    _assert_same(name, {key: value.to("cuda:0") for key, value in results.items()}, expected)
    return "GPU 1 while GPU 0 is the current one"


def _compile(name: str, device: str) -> str:
    arguments = _arguments(name, device)
    compiled = torch.compile(cases.operator(name), fullgraph=True, backend="aot_eager")
    _assert_same(name, _run(name, arguments, compiled), _run(name, arguments))
    return "no graph break, forward and backward" if name in SIZES else "no graph break"


def _repeat(name: str, device: str) -> str:
    arguments = _arguments(name, device)
    expected = _run(name, arguments)
    different = set()
    for _ in range(REPEATS - 1):
        results = _run(name, arguments)
        _assert_same(name, results, expected)
        different.update(different_bits(results, expected))
    return f"other bits, as documented: {', '.join(different)}" if different else "equal bits"


def _deterministic(name: str, device: str) -> str:
    arguments = _arguments(name, device)
    with deterministic_algorithms():
        try:
            expected = _run(name, arguments)
        except RuntimeError as error:
            assert "deterministic" in str(error), str(error)
            return f"refused: {error}".partition("\n")[0]
        for _ in range(REPEATS - 1):
            different = different_bits(_run(name, arguments), expected)
            assert not different, f"other bits: {', '.join(different)}"
    return "equal bits"
