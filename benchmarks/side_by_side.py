"""The systems on the quickstart's pictures, each trained for the same CPU time.

    python -m benchmarks.side_by_side [--minutes 5] [--seeds 0] [--only SYSTEM ...] [--jobs 2]

Every training is a process of one thread with the configuration of the quickstart and a schedule
as long as the time allows: the seconds of an iteration are measured first, and the evaluation at
the end comes on top. PQ is that of pictures the training never saw, also by size of segment; an
image's time is that of the model in evaluation, results included.
"""

import argparse
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import mean
from typing import Any

import torch
from benchmarks.quickstart_training import CONFIGS, DATA, quickstart_trainer, run_in_process
from detectron2.engine.hooks import CallbackHook
from tabulate import tabulate

from segcore.data.quickstart import generate
from segcore.engine import Trainer
from segcore.evaluation import PanopticEvaluator

WARM_UP, TIMED = 5, 15  # iterations
COLUMNS = {
    "PQ": "PQ",
    "small": "small",
    "medium": "medium",
    "large": "large",
    "parameters": "parameters M",
    "iterations": "iterations",
    "minutes": "training min",
    "milliseconds": "ms an image",
}


def seconds_of_iteration(system: str, seed: int) -> float:
    times = []
    clock = CallbackHook(after_step=lambda _: times.append(time.process_time()))
    with quickstart_trainer(system, WARM_UP + TIMED, seed) as trainer:
        trainer.register_hooks([clock])
        trainer.train()
    return (times[-1] - times[WARM_UP - 1]) / TIMED


def evaluate(trainer: Trainer) -> dict[str, float]:
    """Return PQ in percent, in all and by size, and CPU time of an image."""
    model, name = trainer.evaluated_model.eval(), trainer.cfg.DATASETS.TEST[0]
    loader = trainer.build_test_loader(trainer.cfg, name)
    evaluator = PanopticEvaluator(name)
    evaluator.reset()
    seconds = []
    with torch.no_grad():
        for inputs in loader:
            start = time.process_time()
            outputs = model(inputs)
            seconds.append((time.process_time() - start) / len(inputs))
            evaluator.process(inputs, outputs)
    evaluator.evaluate()
    result = evaluator.panoptic_result
    sizes = {size: 100 * result.mean(size=size).pq for size in ("small", "medium", "large")}
    return {"PQ": 100 * result.mean().pq, **sizes, "milliseconds": 1000 * mean(seconds)}


def train(system: str, minutes: float, seed: int) -> dict[str, float]:
    """Train and evaluate in this process."""
    iterations = int(60 * minutes / seconds_of_iteration(system, seed))
    with quickstart_trainer(system, iterations, seed, ["TEST.REPORT", "False"]) as trainer:
        start = time.process_time()
        trainer.train()  # evaluates at its end
        spent = (time.process_time() - start) / 60
        parameters = sum(weight.numel() for weight in trainer.model.parameters()) / 1e6
        results = evaluate(trainer)
    return {**results, "parameters": parameters, "iterations": iterations, "minutes": spent}


def table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the means over the seeds as Markdown."""
    rows = [
        [system, *(f"{mean(result[key] for result in of_seeds):.4g}" for key in COLUMNS)]
        for system, of_seeds in results.items()
    ]
    headers = ["", *COLUMNS.values()]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    systems = list(CONFIGS)
    parser.add_argument("--minutes", type=float, default=5, help="of CPU time of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=systems, default=systems, metavar="SYSTEM")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--train", choices=systems, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        print(json.dumps(train(args.train, args.minutes, args.seeds[0])))
        return
    generate(DATA)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {
            system: [
                pool.submit(
                    run_in_process,
                    "side_by_side",
                    {"train": system, "minutes": args.minutes, "seeds": seed},
                )
                for seed in args.seeds
            ]
            for system in args.only
        }
        results = {system: [job.result() for job in jobs] for system, jobs in runs.items()}
    print(table(results))


if __name__ == "__main__":
    main()
