"""Multi-scale deformable attention beside its PyTorch twin, and from logits and offsets beside the
steps one by one.

    python -m benchmarks.ms_deform_attn [--device cpu|cuda] [--repeats 5] [--dtypes float32 ...]

One encoder call of an 800x1333 image: every cell of three levels is a query and samples four points
a level and head, normally distributed around itself with a deviation of two cells of each level.
Implementations run in turns in one process; times are medians, memory is the extra peak of a
process of its own. On an idle machine the ratios mean most; ``--process-time`` counts the time of
the processor instead, for one thread (``OMP_NUM_THREADS=1``) on a loaded one.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from benchmarks.common import median_seconds, peak_mebibytes
from tabulate import tabulate
from torch import Tensor

from segcore.functional import short_softmax
from segcore.ops import ms_deform_attn, ms_deform_attn_reference, ms_deform_attn_with_logits

SHAPES = [(100, 168), (50, 84), (25, 42)]
DTYPES = ["float32", "float64", "float16", "bfloat16"]
SPREAD = 2.0


def make_logit_inputs(
    dtype: torch.dtype, device: str, *, shapes=SHAPES, batch=1, heads=8, channels=32, points=4
) -> tuple[Tensor, ...]:
    """Return value, reference points, offsets and logits."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    sizes = torch.tensor([(width, height) for height, width in shapes])
    cells = torch.cat([torch.cartesian_prod(*map(torch.arange, shape)) for shape in shapes])
    own_level = torch.repeat_interleave(sizes, sizes.prod(-1), dim=0)
    centers = (cells.flip(-1) + 0.5) / own_level
    samples = (batch, len(cells), heads, len(shapes), points)
    offsets = SPREAD * torch.randn(*samples, 2, generator=generator)
    logits = torch.randn(*samples, generator=generator)
    value = torch.randn(batch, len(cells), heads, channels, generator=generator)
    references = centers[None, :, None].expand(batch, -1, len(shapes), -1).contiguous()
    return (
        value.to(device, dtype),
        references.to(device, precision),
        offsets.to(device, dtype),
        logits.to(device, dtype),
    )


def locations_and_weights(
    shapes: Sequence, references: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the samples of :func:`ms_deform_attn`, in full as a CPU computes them fastest."""
    weights = short_softmax(logits.flatten(-2).to(references.dtype)).view(logits.shape)
    sides = [side for height, width in shapes for side in (width, height)]
    sizes = torch.tensor(sides, dtype=references.dtype, device=offsets.device).view(-1, 1, 2)
    sizes = sizes.expand(offsets.shape[2:]).contiguous()
    centers = references[:, :, None, :, None].expand(-1, -1, -1, -1, offsets.shape[4], -1)
    return centers.contiguous() + offsets.to(references.dtype) / sizes, weights


def make_inputs(dtype: torch.dtype, device: str, **sizes):
    """Return value, locations and weights."""
    value, *tensors = make_logit_inputs(dtype, device, **sizes)
    return value, *locations_and_weights(SHAPES, *tensors)


def step_by_step(value: Tensor, shapes: Sequence, *tensors: Tensor) -> Tensor:
    """Write locations and weights to memory for :func:`ms_deform_attn`."""
    return ms_deform_attn(value, shapes, *locations_and_weights(shapes, *tensors))


TABLES = {
    "ms_deform_attn": (
        {"twin": ms_deform_attn_reference, "ours": ms_deform_attn},
        make_inputs,
    ),
    "ms_deform_attn_with_logits": (
        {"step by step": step_by_step, "fused": ms_deform_attn_with_logits},
        make_logit_inputs,
    ),
}


def make_run(
    table: str, operator: str, dtype: str, device: str, backward: bool
) -> Callable[[], object]:
    """Return a function that runs an operator once: forward, or forward and backward."""
    operators, make = TABLES[table]
    tensors = make(getattr(torch, dtype), device)
    value, *others = (tensor.requires_grad_(backward) for tensor in tensors)
    grad_output = torch.randn(*value.shape[:2], value.shape[2] * value.shape[3]).to(value)

    def forward() -> None:
        operators[operator](value, SHAPES, *others)

    def forward_and_backward() -> None:
        output = operators[operator](value, SHAPES, *others)
        torch.autograd.grad(output, [value, *others], grad_output)

    return forward_and_backward if backward else forward


def measure(table: str, options: argparse.Namespace) -> None:
    """Print times and memory of both columns of a table."""
    clock = time.process_time if options.process_time else time.perf_counter
    rows = []
    names = list(TABLES[table][0])
    for dtype in options.dtypes:
        for backward in (False, True):
            arguments = (dtype, options.device, backward)
            runs = {name: make_run(table, name, *arguments) for name in names}
            seconds = median_seconds(runs, options.repeats, options.device, clock)
            memory = [
                peak_mebibytes(make_run, table, name, *arguments, device=options.device)
                for name in names
            ]
            what = "forward + backward" if backward else "forward"
            milliseconds = [1e3 * value for value in seconds.values()]
            rows.append([dtype, what, *milliseconds, milliseconds[0] / milliseconds[1], *memory])
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{table} on {device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    headers = ["dtype", "what", *(f"{name} ms" for name in names), "faster"]
    headers += [f"{name} MiB" for name in names]
    print(tabulate(rows, headers, floatfmt=("", "", ".1f", ".1f", ".2f", ".0f", ".0f")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--process-time", action="store_true", help="time of the processor")
    options = parser.parse_args()
    for table in options.tables:
        measure(table, options)


if __name__ == "__main__":
    main()
