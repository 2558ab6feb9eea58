"""Trainings and evaluations of every system in one process of a job, for tests of whole jobs."""

import json
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing import SimpleQueue
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from detectron2.utils import comm
from torch import Tensor

from segcore.cli.train import training_parser
from segcore.engine.launch import _spawned_worker, launch
from segcore.engine.program import run_process
from small_models import SMALL_MODELS

ROOT = Path(__file__).resolve().parents[1]
COMMON = {
    "SEED": 1,
    **SMALL_MODELS,
    "INPUT.IMAGE_SIZE": 64,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 48,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": "(2,)",
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
TINY_BACKBONE = {
    "MODEL.BACKBONE.NAME": "PyramidVisionTransformerV2",
    "MODEL.PVT.EMBED_DIMS": "[8, 8, 16, 16]",
    "MODEL.PVT.NUM_HEADS": "[1, 1, 2, 2]",
    "MODEL.PVT.DEPTHS": "[1, 1, 1, 1]",
    "MODEL.PVT.DROP_PATH_RATE": 0.0,
}
# System -> the config, and what takes out of it that a process has statistics of its own: of batch
# norms, and of the weights by which a cross entropy is divided.
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mask2former": (
        "mask2former_R18",
        {**TINY_BACKBONE, "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 1.0},
    ),
    "panoptic_segformer": (
        "panoptic_segformer_R18",
        {**TINY_BACKBONE, "MODEL.PANOPTIC_SEGFORMER.IN_FEATURES": "['res3', 'res4', 'res5']"},
    ),
    "autofocusformer": (
        "autofocusformer_demo",
        {"MODEL.BACKBONE.FREEZE": 1, "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 1.0},
    ),
    "eomt": (
        "eomt_tiny",
        {
            "MODEL.EOMT.NO_OBJECT_WEIGHT": 1.0,
            "MODEL.EOMT.ANNEALING.ENABLED": False,
            "MODEL.RESNETS.NORM": "SyncBN",  # the ViT has none, the message must come once
            "SOLVER.WARMUP_STAGES": "(1, 0)",
        },
    ),
}
THRESHOLDS = [
    *(f"MODEL.{name}.TEST.OBJECT_MASK_THRESHOLD" for name in ("MASK_FORMER", "EOMT")),
    *(f"MODEL.{name}.TEST.OVERLAP_THRESHOLD" for name in ("MASK_FORMER", "EOMT")),
    *(f"MODEL.PANOPTIC_MERGING.QUALITY_THRESHOLD_{kind}" for kind in ("THINGS", "STUFF")),
]


def same_points(*size: int, **options: Any) -> Tensor:
    """Draw random numbers like ``torch.rand``, the same for all masks and calls."""
    generator = torch.Generator().manual_seed(0)
    return draw(*size[-2:], generator=generator, **options).expand(size)


draw = torch.rand


def run(system: str, output: Path, options: Mapping[str, Any], *flags: str) -> dict:
    """Do the work of train_net.py in this process of the job; return an evaluation's results."""
    config, own = SYSTEMS[system]
    settings = {**COMMON, **own, "OUTPUT_DIR": output, **options}
    pairs = [str(part) for pair in settings.items() for part in pair]
    path = str(ROOT / f"configs/quickstart/{config}.yaml")
    with patch("torch.rand", same_points):
        args = training_parser().parse_args(["--config-file", path, *flags, *pairs])
        return run_process(args)


def only_training(data: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the data of tests out."""
    return {key: value if ".TRAIN." in key else "''" for key, value in data.items()}


def evaluate(output: Path, weights: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a Mask2Former that is sure of everything."""
    options = {**data, "MODEL.WEIGHTS": weights, **dict.fromkeys(THRESHOLDS, 0.0)}
    return run("mask2former", output, options, "--eval-only")


def launch_machine(rank: int, url: str, *arguments: Any) -> None:
    """Run the job as machine ``rank`` of two; its one process is this one, not a spawned one."""

    def run_here(count: int, worker_arguments: tuple) -> None:
        assert count == 1
        _spawned_worker(0, SimpleQueue(), *worker_arguments)

    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with (
            patch("segcore.engine.launch._run_processes", run_here),
            patch("segcore.engine.launch.TIMEOUT", timedelta(minutes=5)),
            patch("detectron2.utils.comm._LOCAL_PROCESS_GROUP", None),
        ):
            launch(job, 1, num_machines=2, machine_rank=rank, dist_url=url, args=arguments)
    finally:
        signal.signal(signal.SIGINT, interrupt)


def job(output: str, data: Mapping[str, Any], alone: str) -> None:
    """Train every system; go on with what one process has trained, in ``alone``; evaluate it."""
    folder = Path(output)
    for system in SYSTEMS:
        sharded = {"SOLVER.SHARDED_OPTIMIZER": system == "mask2former"}
        run(system, folder / system, {**only_training(data), **sharded})
    sharded = {"SOLVER.SHARDED_OPTIMIZER": True}
    run("mask2former", folder / "resumed", {**only_training(data), **sharded}, "--resume")
    results = evaluate(folder / "evaluated", Path(alone, "mask2former/model_final.pth"), data)
    if comm.is_main_process():
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    launch_machine(1, *json.loads(sys.argv[1]))
