"""Ablations of one key each, trained on the quickstart's pictures for as many iterations.

    python -m benchmarks.ablations [--only NAME ...] [--iterations 240] [--seeds 0 1 2] [--jobs 2]

Every run is a process of one thread. The table has PQ on pictures that the training never saw, its
mean and range over the seeds, the difference to the system as it is, and CPU seconds of a run.
Iterations, not seconds, are the budget: PQ does not hang on what else the machine does.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import mean
from typing import Any, NamedTuple

from benchmarks.quickstart_training import DATA, quickstart_trainer, run_in_process
from tabulate import tabulate

from segcore.data.quickstart import generate

SECTIONS = {
    "mask2former": "MASK_FORMER",
    "panoptic_segformer": "PANOPTIC_SEGFORMER",
    "autofocusformer": "AFF",
}


class Ablation(NamedTuple):
    """A key of a system's section and its value; no key: the system as it is."""

    system: str
    key: str = ""
    value: Any = None

    @property
    def name(self) -> str:
        return f"{self.system} {self.key} {self.value}" if self.key else self.system

    @property
    def options(self) -> list[str]:
        if not self.key:
            return []
        return [f"MODEL.{SECTIONS[self.system]}.{self.key}", str(self.value)]


ABLATIONS = [
    Ablation("mask2former"),
    Ablation("mask2former", "ATTENTION", "plain"),
    Ablation("mask2former", "ATTENTION", "pooled"),
    Ablation("mask2former", "FEATURE_LEVELS", [0]),
    Ablation("mask2former", "FEATURE_LEVELS", [2]),
    Ablation("mask2former", "QUERY_INIT", "zero"),
    Ablation("mask2former", "QUERY_INIT", "pixel_decoder"),
    Ablation("mask2former", "LOSS_SAMPLING", "masks"),
    Ablation("panoptic_segformer"),
    Ablation("panoptic_segformer", "JOINT_QUERIES", True),
    Ablation("panoptic_segformer", "LOCATION_TARGET", "centre"),
    Ablation("panoptic_segformer", "LOCATION_TARGET", "none"),
    Ablation("panoptic_segformer", "ENCODER_ATTENTION", "single_scale"),
    Ablation("panoptic_segformer", "ENCODER_ATTENTION", "plain"),
    Ablation("autofocusformer"),
    Ablation("autofocusformer", "BLANK_TOKEN", False),
    Ablation("autofocusformer", "GRID_PRIOR", False),
    Ablation("autofocusformer", "PLAIN_OFFSETS", True),
    Ablation("autofocusformer", "CLUSTER_SIZE", 1),
]


def train(ablation: Ablation, iterations: int, seed: int) -> dict[str, float]:
    """Train and evaluate in this process: "PQ" in percent and "seconds" of its CPU time."""
    with quickstart_trainer(ablation.system, iterations, seed, ablation.options) as trainer:
        trainer.train()  # evaluates at its end
    quality = trainer._last_eval_results["panoptic_seg"]["PQ"]
    return {"PQ": quality, "seconds": time.process_time()}


def run(ablation: Ablation, iterations: int, seed: int) -> dict[str, float]:
    """Call :func:`train` in a process of its own."""
    arguments = {"train": ablation.name, "iterations": iterations, "seeds": seed}
    return run_in_process("ablations", arguments)


def table(results: Sequence[tuple[Ablation, Sequence[dict[str, float]]]]) -> str:
    """Return the rows of all ablations as Markdown."""
    default, rows = {}, []
    for ablation, of_seeds in results:
        qualities = [result["PQ"] for result in of_seeds]
        if not ablation.key:
            default[ablation.system] = mean(qualities)
        base = default.get(ablation.system)
        difference = "" if base is None or not ablation.key else f"{mean(qualities) - base:+.1f}"
        spread = f"{min(qualities):.1f} to {max(qualities):.1f}" if len(qualities) > 1 else ""
        seconds = f"{mean(result['seconds'] for result in of_seeds):.0f}"
        rows.append([ablation.name, f"{mean(qualities):.1f}", spread, difference, seconds])
    headers = ["", "PQ", "seeds", "difference", "CPU s"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [ablation.name for ablation in ABLATIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--train", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [ablation for ablation in ABLATIONS if ablation.name in args.only]
    if args.train:
        (ablation,) = [ablation for ablation in ABLATIONS if ablation.name == args.train]
        print(json.dumps(train(ablation, args.iterations, args.seeds[0])))
        return
    generate(DATA)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [
            (ablation, [pool.submit(run, ablation, args.iterations, seed) for seed in args.seeds])
            for ablation in chosen
        ]
        results = [(ablation, [job.result() for job in jobs]) for ablation, jobs in runs]
    print(table(results))


if __name__ == "__main__":
    main()
