"""Multi-scale deformable attention beside its PyTorch twin.

    python -m benchmarks.ms_deform_attn [--device cpu|cuda] [--repeats 5] [--dtypes float32 ...]

One encoder call of an 800x1333 image: every cell of three levels is a query and samples four points
a level and head, normally distributed around itself with a deviation of two cells of each level.
Both implementations run in turns in one process; times are medians, memory is the extra peak of a
process of its own. On an idle machine the ratios mean most.
"""

import argparse
from collections.abc import Callable

import torch
from benchmarks.common import median_seconds, peak_mebibytes
from tabulate import tabulate

from segcore.ops import ms_deform_attn, ms_deform_attn_reference

OPERATORS = {"twin": ms_deform_attn_reference, "ours": ms_deform_attn}
SHAPES = [(100, 168), (50, 84), (25, 42)]
DTYPES = ["float32", "float64", "float16", "bfloat16"]
SPREAD = 2.0


def make_inputs(dtype: torch.dtype, device: str, *, batch=1, heads=8, channels=32, points=4):
    """Return value, locations and weights, with gradients."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    sizes = torch.tensor([(width, height) for height, width in SHAPES])
    cells = torch.cat([torch.cartesian_prod(*map(torch.arange, shape)) for shape in SHAPES])
    own_level = torch.repeat_interleave(sizes, sizes.prod(-1), dim=0)
    centers = (cells.flip(-1) + 0.5) / own_level
    samples = (batch, len(cells), heads, len(SHAPES), points)
    offsets = SPREAD * torch.randn(*samples, 2, generator=generator) / sizes[:, None]
    locations = centers[:, None, None, None] + offsets
    logits = torch.randn(*samples, generator=generator)
    value = torch.randn(batch, len(cells), heads, channels, generator=generator)
    return (
        value.to(device, dtype).requires_grad_(),
        locations.to(device, precision).requires_grad_(),
        logits.flatten(-2).softmax(-1).view(samples).to(device, precision).requires_grad_(),
    )


def make_run(operator: str, dtype: str, device: str, backward: bool) -> Callable[[], object]:
    """Return a function that runs an operator once: forward, or forward and backward."""
    value, locations, weights = inputs = make_inputs(getattr(torch, dtype), device)
    grad_output = torch.randn(*value.shape[:2], value.shape[2] * value.shape[3]).to(value)

    def forward() -> None:
        with torch.no_grad():
            OPERATORS[operator](value, SHAPES, locations, weights)

    def forward_and_backward() -> None:
        output = OPERATORS[operator](value, SHAPES, locations, weights)
        torch.autograd.grad(output, inputs, grad_output)

    return forward_and_backward if backward else forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    arguments = parser.parse_args()

    rows = []
    for dtype in arguments.dtypes:
        for backward in (False, True):
            options = (dtype, arguments.device, backward)
            runs = {name: make_run(name, *options) for name in OPERATORS}
            seconds = median_seconds(runs, arguments.repeats, arguments.device)
            memory = [
                peak_mebibytes(make_run, name, *options, device=arguments.device)
                for name in OPERATORS
            ]
            what = "forward + backward" if backward else "forward"
            milliseconds = [1e3 * value for value in seconds.values()]
            rows.append([dtype, what, *milliseconds, milliseconds[0] / milliseconds[1], *memory])
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    print(
        f"ms_deform_attn on {name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    )
    headers = ["dtype", "what", "twin ms", "ours ms", "faster", "twin MiB", "ours MiB"]
    print(tabulate(rows, headers, floatfmt=("", "", ".1f", ".1f", ".1f", ".0f", ".0f")))


if __name__ == "__main__":
    main()
