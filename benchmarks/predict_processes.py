"""Photos a second of ``segcore predict`` with 1 and more processes of one thread each.

    python -m benchmarks.predict_processes WEIGHTS PHOTO... [--processes 1 2]

Each process is a shard; overlays, panoptic PNGs and JSON are written, and joined in the end. A
process on one photo is the start, which the others take as well: photos a second are those of the
time beyond it. CPU time is that of all processes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from segcore.demo.merge import merge
from segcore.demo.photos import find_photos

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def predict(weights: str, photos: Sequence[Path], count: int) -> tuple[float, float]:
    """Return wall and CPU seconds of ``count`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(number)) for number in range(1, count + 1)]
        start, before = time.perf_counter(), os.times()
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "segcore", "predict", "--weights", weights),
                    *("--device", "cpu", "--output", str(output), "--shard"),
                    *(f"{output.name}/{count}", *map(str, photos)),
                ],
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
            )
            for output in outputs
        ]
        if any([process.wait() for process in processes]):
            raise SystemExit("segcore predict failed")
        wall, after = time.perf_counter() - start, os.times()
        merge(outputs, Path(folder, "all"))
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="file, or folder of a training")
    parser.add_argument("photos", nargs="+", help="files, patterns or folders")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    photos = find_photos(arguments.photos)
    start = predict(arguments.weights, photos[:1], 1)
    rows = []
    for count in arguments.processes:
        wall, cpu = predict(arguments.weights, photos, count)
        beyond = wall - start[0], cpu - count * start[1]
        rows.append((count, wall, cpu, *(len(photos) / seconds for seconds in beyond)))
    print(f"{len(photos)} photos; the start takes {start[0]:.1f} s, {start[1]:.1f} s of CPU time\n")
    headers = ("processes", "wall s", "CPU s", "photos a second", "photos a CPU second")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("d", ".1f", ".1f", ".1f", ".1f")))


if __name__ == "__main__":
    main()
