"""Trainings on the quickstart's pictures, each in a process of one thread."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from segcore.data.custom_data import setup_custom_data
from segcore.engine import Trainer, setup_config

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "datasets/quickstart"
CONFIGS = {
    "mask2former": "mask2former_R18.yaml",
    "panoptic_segformer": "panoptic_segformer_R18.yaml",
    "autofocusformer": "autofocusformer_demo.yaml",
    "eomt": "eomt_tiny.yaml",
}


@contextmanager
def quickstart_trainer(
    system: str, iterations: int, seed: int, options: Sequence[str] = ()
) -> Iterator[Trainer]:
    """Yield the trainer of a system's quickstart; its output folder is removed afterwards.

    Args:
        options: more keys and values of the config.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        keys = {
            "SEED": seed,
            "OUTPUT_DIR": folder,
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.STEPS": [int(share * iterations) for share in (0.83, 0.95)],
            "DATALOADER.NUM_WORKERS": 0,
            "MODEL.DEVICE": "cpu",
        }
        pairs = [str(part) for key in keys.items() for part in key]
        cfg = setup_config(str(ROOT / "configs/quickstart" / CONFIGS[system]), [*pairs, *options])
        for split in ("TRAIN", "TEST"):
            paths = cfg.DATASETS.PANOPTIC[split]
            for key, path in paths.items():
                paths[key] = str(ROOT / path)
        setup_custom_data(cfg)
        cfg.freeze()
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        yield trainer


def run_in_process(module: str, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Run ``python -m benchmarks.MODULE --KEY VALUE ...``; return the JSON of its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    command += [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
