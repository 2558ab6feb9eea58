"""CPU time of inference in float32 and in half precision, in turns, one thread.

    python -m benchmarks.precision [--config-files X ...] [--size 800 1333] [--repeats 3]
        [--results panoptic] [--precisions float32 bfloat16]

Models have initial weights; 20 queries of Mask2Former are certain of a class. The least CPU time of
each counts, as other programs of the machine only add to it.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from benchmarks.before_and_after import RESULTS, build_for_benchmark
from benchmarks.common import least_cpu_seconds
from benchmarks.models import CONFIGS, photo
from tabulate import tabulate

from segcore.precision import PRECISIONS, in_precision

CONFIG_FILES = (
    CONFIGS / "maskformer2_R50_bs16_50ep.yaml",
    CONFIGS / "swin/maskformer2_swin_tiny_bs16_50ep.yaml",
    CONFIGS / "panoptic_segformer_r50_24e.yaml",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-files", type=Path, nargs="+", default=CONFIG_FILES)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height, width")
    parser.add_argument("--results", nargs="+", default=["panoptic"], choices=RESULTS)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.precisions) - set(PRECISIONS))
    if unknown:
        parser.error(f"--precisions: expected some of {', '.join(PRECISIONS)}, got {unknown}")
    torch.set_num_threads(1)
    batch = [photo(tuple(arguments.size), 20)]
    rows = []
    for file in arguments.config_files:
        model = build_for_benchmark(file, arguments.results, arguments.segments)
        runs = {
            precision: partial(in_precision(model, precision), batch)
            for precision in arguments.precisions
        }
        with torch.inference_mode():
            least = least_cpu_seconds(runs, arguments.repeats)
        first = least[arguments.precisions[0]]
        rows += [[file.stem, precision, best, first / best] for precision, best in least.items()]
    print(tabulate(rows, ["config", "weights", "CPU s", "faster"], floatfmt=("", "", ".2f", ".2f")))


if __name__ == "__main__":
    main()
