"""Attention within windows beside its PyTorch twin: CPU time of one thread, forward.

    python -m benchmarks.window_attention [--repeats 5]

The maps of the four stages of Swin-T on a 640x960 image, windows of 7, shifted by 3. Both take
turns in one process; times are medians.
"""

import argparse
import time

import torch
from benchmarks.common import median_seconds
from tabulate import tabulate

from segcore import ops

STAGES = ((160, 240, 3), (80, 120, 6), (40, 60, 12), (20, 30, 24))  # height, width, heads
CHANNELS, WINDOW, SHIFT = 32, 7, (3, 3)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for height, width, heads in STAGES:
            dim = 3 * heads * CHANNELS
            qkv = torch.randn(1, height, width, dim, dtype=dtype)
            padding = torch.randn(dim, dtype=dtype)
            bias = torch.randn(heads, WINDOW**2, WINDOW**2)
            functions = {
                name: lambda f=f, a=(qkv, padding, bias, WINDOW, SHIFT): f(*a)
                for name, f in (
                    ("twin", ops.window_attention_reference),
                    ("ours", ops.window_attention),
                )
            }
            seconds = median_seconds(functions, arguments.repeats, "cpu", time.process_time)
            twin, ours = (1000 * value for value in seconds.values())
            rows.append([str(dtype)[6:], f"{height}x{width}", heads, twin, ours, twin / ours])
    headers = ["dtype", "map", "heads", "twin ms", "ours ms", "faster"]
    print(tabulate(rows, headers, floatfmt=".1f"))


if __name__ == "__main__":
    main()
