"""CPU time and memory of one network: eager, compiled, AOTInductor, onnxruntime; one thread.

    python -m benchmarks.export [--ways eager compiled aoti onnx] [--size 800 1344] [--repeats 3]
        [--config-file X] [KEY VALUE ...]

From normalized images to logits, with initial weights, programs for images of every size. The ways
run in turns in one process, and the least CPU time of each counts, as other programs of the machine
only add to it. Memory is the peak of the first run beyond what the process holds before it;
"made in" is the CPU time, with that of compilers, up to and with the first run.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.before_and_after import build_for_benchmark
from benchmarks.common import least_cpu_seconds
from benchmarks.models import CONFIGS
from tabulate import tabulate
from torch import Tensor

import segcore
from segcore.analysis.measuring import measure_mebibytes
from segcore.export import ExportedModel, export_program, write_program
from segcore.export.checking import load_program

EXAMPLE = (320, 480)
WAYS = ("eager", "compiled", "aoti", "onnx")
Run = Callable[[Tensor], object]


def make(way: str, config_file: Path, options: list[str], folder: Path) -> Run:
    """Return the network of a config as a function of images."""
    model = build_for_benchmark(config_file, ["panoptic"], None, options)
    if way == "eager":
        return model.network
    if way == "compiled":
        return segcore.compile(model, freeze=True).network
    exported = ExportedModel(model, normalize=False, outputs="network").eval()
    program = export_program(exported, EXAMPLE, dynamic=True)
    path = folder / ("model.onnx" if way == "onnx" else "model.pt2")
    write_program(program, path, way, output_names=exported.fields)
    return load_program(path, way)


def cpu_seconds() -> float:
    """Return the CPU time of this process and the compilers that it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument(
        "--config-file", type=Path, default=CONFIGS / "maskformer2_R50_bs16_50ep.yaml"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], help="height, width")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("options", nargs="*", help="KEY VALUE of the config")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(1, 3, *arguments.size)
    runs, made, memory = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in arguments.ways:
            start = cpu_seconds()
            run = runs[way] = make(way, arguments.config_file, arguments.options, Path(folder))
            run(torch.randn(1, 3, *EXAMPLE))
            made[way] = cpu_seconds() - start
            memory[way] = measure_mebibytes(lambda run=run: run(images), images.device)
            print(f"{way}: made in {made[way]:.0f} s", flush=True)
        seconds = least_cpu_seconds(
            {way: partial(run, images) for way, run in runs.items()}, arguments.repeats
        )
    rows = [[way, seconds[way], memory[way], made[way]] for way in runs]
    print(tabulate(rows, ["", "CPU s", "MiB", "made in s"], floatfmt=("", ".2f", ".0f", ".0f")))


if __name__ == "__main__":
    main()
