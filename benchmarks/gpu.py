"""Our operators on a GPU beside what else there is, and against the speed of its memory.

    python -m benchmarks.gpu [--device cuda|cpu] [--repeats 20] [--tiny] [--seconds 170]

Deformable attention at the sizes of an 800x1333 image: an encoder call (22,050 queries on three
levels) and a decoder call (300 queries); locations around the cell of each query as in an encoder,
or anywhere; from logits and offsets too, beside the steps one by one. Attention over clusters at
the first stage of AFF-Tiny on a 512x512 image; operators on tokens at the sizes of AFF-Mini. Times
are medians of the device alone, in turns, its caches overwritten before each. "GB/s" are the bytes
of arguments and results, each once, a second; "of copy" is their share of what the device's own
copy moves. "difference" is the largest of the output from the twin in float64, relative to the
largest value.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from benchmarks import cluster_attention, ms_deform_attn, points
from benchmarks.common import deterministic_algorithms, median_seconds
from benchmarks.peers import CLUSTERS, DEFORMABLE, NEAR, Loaders, SpatialShapes
from tabulate import tabulate
from torch import Tensor

from segcore import ops
from segcore.ops import ClusterNeighborhood

LEVELS = ((100, 168), (50, 84), (25, 42))
TINY_LEVELS = ((10, 16), (5, 8), (3, 4))
HEADS, CHANNELS, POINTS = 8, 32, 4
DECODER_QUERIES = 300
SPREAD = 2.0  # cells, standard deviation of encoder-like locations
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BATCHES = (1, 8)
CACHE_BYTES = 2**28  # more than the caches of a GPU
HEADERS = ("batch", "type", "implementation", "forward us", "GB/s", "of copy",
           "with backward us", "GB/s", "of copy", "difference")  # fmt: skip

FROM_LOGITS = {
    "ours": ops.ms_deform_attn_with_logits,
    "twin": ops.ms_deform_attn_with_logits_reference,
    "step by step": ms_deform_attn.step_by_step,
}

Function = Callable[[], Any]


class Report(NamedTuple):
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


class Options(NamedTuple):
    device: str
    repeats: int
    tiny: bool
    deadline: float  # of time.monotonic()


def seconds_of(functions: Mapping[str, Function], options: Options) -> dict[str, float]:
    """Return the median time of each function on the device."""
    if options.device != "cuda":
        return median_seconds(functions, options.repeats, options.device)
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    for function in functions.values():
        for _ in range(2):
            function()
    events = {name: [] for name in functions}
    for _ in range(options.repeats):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)  # 1 ms: what follows is queued before it begins
            cache.zero_()
            start.record()
            function()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {
        name: statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs)
        for name, pairs in events.items()
    }


def copy_bytes_per_second(device: str) -> float:
    """Return how fast the device copies a large tensor, bytes read and written."""
    source = torch.ones(2**30 if device == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    options = Options(device, 10, False, 0)
    return 2 * source.nbytes / seconds_of({"": lambda: target.copy_(source)}, options)[""]


def deformable_inputs(
    levels: SpatialShapes,
    batch: int,
    queries: int | None,
    like_encoder: bool,
    dtype: torch.dtype,
    device: str,
) -> tuple[Tensor, list, Tensor, Tensor]:
    """Return the arguments of the operator, the value in ``dtype``; None queries: every cell."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = torch.tensor([(width, height) for height, width in levels], device=device)
    cells = torch.cat([
        torch.cartesian_prod(*(torch.arange(size, device=device) for size in shape)).flip(-1)
        for shape in levels
    ])  # fmt: skip
    centers = (cells + 0.5) / sizes.repeat_interleave(sizes.prod(-1), dim=0)
    if queries is not None:
        centers = centers[torch.randint(len(cells), (queries,), generator=generator, device=device)]
    samples = (batch, len(centers), HEADS, len(levels), POINTS)
    if like_encoder:
        offsets = torch.randn(*samples, 2, generator=generator, device=device)
        locations = centers[:, None, None, None] + SPREAD * offsets / sizes[:, None]
    else:
        locations = torch.rand(*samples, 2, generator=generator, device=device)
    logits = torch.randn(*samples, generator=generator, device=device)
    weights = logits.flatten(-2).softmax(-1).view(samples)
    value = torch.randn(batch, len(cells), HEADS, CHANNELS, generator=generator, device=device)
    value, locations, weights = (t.requires_grad_() for t in (value.to(dtype), locations, weights))
    return value, list(levels), locations, weights


def deformable_reports(options: Options, copy: float) -> Iterator[Report]:
    """Time deformable attention."""
    levels = TINY_LEVELS if options.tiny else LEVELS
    peers, missing = load(DEFORMABLE)
    yield missing
    for call, queries, like_encoder in (
        ("encoder, locations around each query", None, True),
        ("encoder, locations anywhere", None, False),
        ("decoder", DECODER_QUERIES, True),
    ):
        rows = []
        for batch, dtype in cases(options):
            sizes = (levels, batch, queries)
            arguments = deformable_inputs(*sizes, like_encoder, dtype, options.device)
            rows += _compare(peers, arguments, options, copy)
        yield Report(f"ms_deform_attn, {call}", HEADERS, rows)
    rows = []
    for batch, dtype in cases(options):
        value, *tensors = (
            tensor.requires_grad_()
            for tensor in ms_deform_attn.make_logit_inputs(
                dtype, options.device, shapes=levels, batch=batch, heads=HEADS, channels=CHANNELS
            )
        )
        rows += _compare(FROM_LOGITS, (value, list(levels), *tensors), options, copy)
    yield Report("ms_deform_attn_with_logits, encoder", HEADERS, rows)


def cluster_reports(options: Options, copy: float) -> Iterator[Report]:
    """Time attention over clusters."""
    peers, missing = load(CLUSTERS)
    yield missing
    rows = []
    for batch, dtype in cases(options):
        rows += _compare(peers, cluster_inputs(batch, dtype, options), options, copy)
    yield Report("cluster_attention", HEADERS, rows)


def cases(options: Options) -> Iterator[tuple[int, torch.dtype]]:
    """Yield sizes of the batch and types, until the time is over."""
    for case in itertools.product(BATCHES, DTYPES):
        if time.monotonic() < options.deadline:
            yield case


def load(loaders: Loaders) -> tuple[dict[str, Callable], Report]:
    """Return what can be loaded by name, and a table of what cannot."""
    functions, reasons = {}, []
    for name, loader in loaders.items():
        try:
            functions[name] = loader()
        except Exception as error:  # of others' code, on their import too
            reasons.append((name, _first_line(error)))
    operator = functions["ours"].__name__
    return functions, Report(f"Not here beside {operator}", ("implementation", "why"), reasons)


def cluster_inputs(batch: int, dtype: torch.dtype, options: Options) -> tuple:
    """Return the arguments of the operator, those of one image repeated."""
    arguments = cluster_attention.make_inputs(dtype, "cpu")
    tokens = 16**2 if options.tiny else cluster_attention.SIDE**2
    around = arguments[4]
    last = -(-tokens // around.cluster_size) - 1
    clusters = around.clusters[:, :tokens].clamp(max=last).repeat(batch, 1, 1)
    rows = [
        tensor.detach()[:, :tokens].repeat(batch, *[1] * (tensor.dim() - 1)).to(options.device)
        for tensor in arguments[:4]
    ]
    neighborhood = ClusterNeighborhood(clusters.to(options.device), around.cluster_size)
    neighborhood.inverse_lists()  # once a stage
    parameters = [parameter.detach().to(options.device) for parameter in arguments[5:]]
    for tensor in (*rows[:3], *parameters):  # positions are constants
        tensor.requires_grad_()
    return *rows, neighborhood, *parameters


def token_reports(options: Options) -> Iterator[Report]:
    """Time the operators on tokens beside their twins, in float32."""
    rows = []
    for title, (name, make_inputs, channels) in points.CASES.items():
        torch.manual_seed(0)
        inputs, differentiable = make_inputs(8 if options.tiny else channels)
        inputs = tuple(x.to(options.device) if isinstance(x, Tensor) else x for x in inputs)
        ours = points.runs(getattr(ops, name), inputs, differentiable)
        twin = points.runs(getattr(ops, f"{name}_reference"), inputs, differentiable)
        for step, *functions in zip(("forward", "with backward"), ours, twin, strict=True):
            seconds = seconds_of(dict(zip(("ours", "twin"), functions, strict=True)), options)
            rows.append((title, step, *_microseconds(seconds)))
        if time.monotonic() > options.deadline:
            break
    yield Report("Operators on tokens, float32", ("case", "", "ours us", "twin us", "faster"), rows)


def _microseconds(seconds: Mapping[str, float]) -> tuple[str, str, str]:
    ours, twin = seconds["ours"], seconds["twin"]
    return f"{1e6 * ours:.1f}", f"{1e6 * twin:.1f}", f"{twin / ours:.1f}"


def _compare(
    peers: Mapping[str, Callable], arguments: tuple, options: Options, copy: float
) -> list[tuple[str, ...]]:
    """Time implementations, forward and with backward, ours in the deterministic mode too."""
    exact = _exact(peers["twin"], arguments)
    case = (str(len(arguments[0])), _name(arguments[0].dtype))
    runs, failures, differences = {}, [], {}
    for name, function in {**peers, "ours, deterministic": peers["ours"]}.items():
        try:
            run = Run(function, arguments, deterministic="deterministic" in name)
            differences[name] = "" if name in NEAR else _difference(run.forward(), exact)
            run.with_backward()
            runs[name] = run
        except Exception as error:  # out of memory, a type that others do not have
            failures.append((*case, name, _first_line(error), *[""] * (len(HEADERS) - 4)))
    forward = seconds_of({name: run.forward for name, run in runs.items()}, options)
    both = seconds_of({name: run.with_backward for name, run in runs.items()}, options)
    measured = [
        (
            *case,
            name,
            *_speed(forward[name], run.forward_bytes, copy),
            *_speed(both[name], run.all_bytes, copy),
            differences[name],
        )
        for name, run in runs.items()
    ]
    return measured + failures


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:150]


class Run:
    """An implementation with arguments, of which those that require a gradient get it."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple, *, deterministic: bool):
        self.function, self.deterministic = function, deterministic
        self.arguments = arguments
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        self.inputs = [tensor for tensor in tensors if tensor.requires_grad]
        output = self.forward()
        self.grad_output = torch.randn_like(output)
        read, grads = (sum(t.nbytes for t in many) for many in (tensors, self.inputs))
        self.forward_bytes = read + output.nbytes
        self.all_bytes = self.forward_bytes + read + output.nbytes + grads

    def forward(self) -> Tensor:
        with torch.no_grad(), deterministic_algorithms(self.deterministic):
            return self.function(*self.arguments)

    def with_backward(self) -> Sequence[Tensor | None]:
        with deterministic_algorithms(self.deterministic):
            output = self.function(*self.arguments)
            return torch.autograd.grad(output, self.inputs, self.grad_output, allow_unused=True)


def _exact(twin: Callable[..., Tensor], arguments: tuple) -> Tensor:
    """Return the twin's output in float64, image by image: it takes much memory."""
    batch = len(arguments[0])
    outputs = []
    with torch.no_grad():
        for i in range(batch):
            image = [_image(value, i, batch) for value in arguments]
            outputs.append(twin(*image).float())
    return torch.cat(outputs)


def _image(value: Any, i: int, batch: int) -> Any:
    if isinstance(value, ClusterNeighborhood):
        return ClusterNeighborhood(value.clusters[i : i + 1], value.cluster_size)
    if not isinstance(value, Tensor):
        return value
    return (value[i : i + 1] if value.dim() > 2 and len(value) == batch else value).double()


def _difference(output: Tensor, exact: Tensor) -> str:
    return f"{float((output.float() - exact).abs().max() / exact.abs().max()):.1e}"


def _speed(seconds: float, size: int, copy: float) -> tuple[str, str, str]:
    rate = size / seconds
    return f"{1e6 * seconds:.1f}", f"{rate / 1e9:.0f}", f"{rate / copy:.0%}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def reports(options: Options) -> Iterator[Report]:
    """Yield the tables, until the time is over."""
    copy = copy_bytes_per_second(options.device)
    yield Report("Memory", ("copy of 1 GiB, GB/s",), [(f"{copy / 1e9:.0f}",)])
    yield from token_reports(options)
    yield from deformable_reports(options, copy)
    yield from cluster_reports(options, copy)  # FlexAttention takes its time to compile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program")
    parser.add_argument("--seconds", type=float, default=170, help="begin no table after these")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: PyTorch sees no GPU; --device cpu --tiny tries the program")
    deadline = time.monotonic() + arguments.seconds
    options = Options(arguments.device, arguments.repeats, arguments.tiny, deadline)
    for report in reports(options):
        print(f"\n{report.title}\n", tabulate(report.rows, report.headers, "github"), sep="\n")


if __name__ == "__main__":
    main()
