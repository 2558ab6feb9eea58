"""CPU time and memory of inference, or of a training step, beside another checkout.

    git worktree add ../before 1d45a60
    (cd ../before && python setup.py egg_info build_ext --inplace)
    python -m benchmarks.before_and_after --before ../before --config-file X [--size 800 1333]
        [--results panoptic] [--step inference|training] [--repeats 5] [KEY VALUE ...]

Each checkout runs in a process of its own with one thread; the two take turns, and the least CPU
time of each counts, as other programs of the machine only add to it. Memory is the peak of the
first run, beyond the built model. Both are as train_net.py of the checkout runs them, with its
settings of the process; a training step is forward, losses, backward, clipping and optimizer.
Initial weights keep no query: with --segments N the first N queries of Mask2Former are certain of a
class.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("semantic", "instance", "panoptic")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout; none: this one alone")
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height, width")
    parser.add_argument("--results", nargs="+", default=RESULTS, choices=RESULTS)
    parser.add_argument("--step", default="inference", choices=["inference", "training"])
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="KEY VALUE of the config")
    return parser.parse_args()


def certain_of_classes(segments: int, num_classes: int) -> Callable[..., Any]:
    """A forward hook of the class layer: so many queries are certain, the others of no object."""
    import torch

    def hook(module: object, inputs: object, logits: Any) -> Any:
        logits, top = logits.clone(), logits.abs().max() + 10
        queries = torch.arange(segments)
        logits[:, queries, queries * 5 % num_classes] = top
        logits[:, segments:, -1] = top
        return logits

    return hook


def build_for_benchmark(
    config_file: str | Path,
    results: Sequence[str],
    segments: int | None,
    options: Sequence[Any] = (),
) -> Any:
    """Build the model of a config on the CPU, with initial weights, in evaluation mode.

    Args:
        results: those of ``RESULTS`` that the model makes.
        segments: number of queries that are certain of a class, in models that classify masks;
            None: as they are.
        options: KEY VALUE pairs that change the config.
    """
    import torch
    from detectron2.modeling import build_model

    from segcore.config import get_cfg
    from segcore.meta_arch import result_switches

    cfg = get_cfg()
    cfg.merge_from_file(str(config_file))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    switches = result_switches(cfg)
    for name in RESULTS:
        switches[f"{name.upper()}_ON"] = name in results
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if segments is not None and hasattr(model, "sem_seg_head"):
        make_certain(model.sem_seg_head.predictor.class_embed, segments)
    elif segments is not None and hasattr(model, "transformer"):  # EoMT
        make_certain(model.transformer.class_head, segments)
    return model


def make_certain(class_layer: Any, segments: int) -> None:
    """Make so many queries certain of a class, and the others of no object."""
    hook = certain_of_classes(segments, class_layer.out_features - 1)
    class_layer.register_forward_hook(hook)


def make_run(arguments: argparse.Namespace) -> Callable[[], object]:
    """Build the model of the current folder's checkout, and return what runs it once."""
    import torch
    from benchmarks.models import photo

    torch.set_num_threads(1)
    segments = None if arguments.step == "training" else arguments.segments
    model = build_for_benchmark(
        arguments.config_file, arguments.results, segments, arguments.options
    )
    batch = [photo(tuple(arguments.size), 20)]
    prepare_process(training=arguments.step == "training")
    if arguments.step == "training":
        optimizer = build_optimizer_of(arguments, model)

        def train() -> None:
            optimizer.zero_grad()
            sum(model.train()(batch).values()).backward()
            optimizer.step()

        return train
    return torch.inference_mode()(lambda: model(batch))


def prepare_process(training: bool) -> None:
    """Set up the process for a CPU, as ``train_net.py`` of the checkout does."""
    try:
        from segcore import host_memory
    except ImportError:  # an earlier commit
        return
    if training:
        host_memory.keep_freed_memory()
    elif hasattr(host_memory, "LARGE_BYTES"):
        host_memory.keep_freed_memory(host_memory.LARGE_BYTES)


def build_optimizer_of(arguments: argparse.Namespace, model: Any) -> Any:
    """Build the optimizer that ``train_net.py`` of the checkout trains the model with."""
    from segcore.config import get_cfg
    from segcore.solver import build_optimizer

    cfg = get_cfg()
    cfg.merge_from_file(arguments.config_file)
    cfg.merge_from_list(arguments.options)
    return build_optimizer(cfg, model)


def work(arguments: argparse.Namespace) -> None:
    """Answer each line of standard input with CPU seconds and peak memory of a run."""
    run = make_run(arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in sys.stdin:
        start = time.process_time()
        run()
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([seconds, peak / 1024]), flush=True)


def start_worker(root: Path) -> subprocess.Popen:
    """Start this file in another process, with the packages of a checkout."""
    path = os.pathsep.join([str(root / "projects"), str(root)])
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", *sys.argv[1:]],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        work(arguments)
        return
    roots = [ROOT] if arguments.before is None else [arguments.before.resolve(), ROOT]
    workers = [start_worker(root) for root in roots]
    runs = [[] for _ in workers]
    for _ in range(arguments.repeats):
        for worker, measured in zip(workers, runs, strict=True):
            worker.stdin.write("\n")
            worker.stdin.flush()
            measured.append(json.loads(worker.stdout.readline()))
    for worker in workers:
        worker.communicate()
    seconds = [min(run[0] for run in measured) for measured in runs]
    rows = [
        [name, best, seconds[0] / best, measured[0][1]]
        for name, best, measured in zip(
            ("before", "after")[-len(roots) :], seconds, runs, strict=True
        )
    ]
    print(tabulate(rows, ["", "CPU s", "faster", "MiB"], floatfmt=("", ".2f", ".2f", ".0f")))


if __name__ == "__main__":
    main()
