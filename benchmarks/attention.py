"""Attention of few queries to many keys beside PyTorch's: CPU time of one thread, forward.

    python -m benchmarks.attention [--repeats 5]

The decoders of Panoptic SegFormer and Mask2Former on an 800x1333 image, the self-attention of
their queries, and the first stage of a PVT v2. Both take turns in one process, copies of heads
included; times are medians.
"""

import argparse
import time

import torch
from benchmarks.common import median_seconds
from tabulate import tabulate

from segcore import ops

# What attends, queries, keys, heads, channels of a head, masked.
CASES = (
    ("Panoptic SegFormer, things", 100, 21950, 8, 32, False),
    ("Panoptic SegFormer, stuff", 53, 21950, 8, 32, False),
    ("Panoptic SegFormer, locations", 300, 300, 8, 32, False),
    ("Mask2Former, stride 8", 100, 16800, 8, 32, True),
    ("Mask2Former, stride 16", 100, 4200, 8, 32, True),
    ("Mask2Former, stride 32", 100, 1050, 8, 32, True),
    ("Mask2Former, queries", 100, 100, 8, 32, False),
    ("PVT v2, stride 4", 66800, 1025, 1, 64, False),
)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, queries, keys, heads, channels, masked in CASES:
        query, key, value = (
            torch.randn(1, count, heads * channels) for count in (queries, keys, keys)
        )
        mask = torch.rand(1, queries, keys) < 0.5 if masked else None
        functions = {
            name: lambda f=f, a=(query, key, value, heads, mask): f(*a)
            for name, f in (("PyTorch", ops.attention_reference), ("ours", ops.attention))
        }
        seconds = median_seconds(functions, arguments.repeats, "cpu", time.process_time)
        theirs, ours = (1000 * value for value in seconds.values())
        rows.append([name, queries, keys, theirs, ours, theirs / ours])
    headers = ["attention", "queries", "keys", "PyTorch ms", "ours ms", "faster"]
    print(tabulate(rows, headers, floatfmt=".1f"))


if __name__ == "__main__":
    main()
