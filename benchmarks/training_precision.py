"""CPU time of a training step in float32 and under autocast in bfloat16, in turns, one thread.

    python -m benchmarks.training_precision [--config-file X] [--side 1024] [--repeats 3]

Forward, losses of 20 targets and backward of one square photo of noise, with initial weights. The
least CPU time of each counts, as other programs of the machine only add to it. The total losses
are those of the first turn, in which all have the same weights and sample the same points.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from benchmarks.common import least_cpu_seconds
from benchmarks.models import CONFIGS, photo
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import nn

from segcore.config import get_cfg
from segcore.host_memory import keep_freed_memory

AMP = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.CPU_BFLOAT16", True)
# Name -> keys.
PRECISIONS = {
    "float32": (),
    "autocast": AMP,
    "autocast, PIXEL_DECODER": (*AMP, "SOLVER.AMP.PIXEL_DECODER", True),
}


def build(config_file: Path, options: tuple[object, ...]) -> nn.Module:
    """Build the model of a config for training, with the same weights each time."""
    cfg = get_cfg()
    cfg.merge_from_file(str(config_file))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    torch.manual_seed(0)
    return build_model(cfg).train()


def step(model: nn.Module, batch: list[dict], *, autocast: bool) -> float:
    """Compute losses and gradients; return the total loss."""
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total_loss = sum(model(batch).values())
    total_loss.backward()
    return total_loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config-file", type=Path, default=CONFIGS / "maskformer2_R50_bs16_50ep.yaml"
    )
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as train_net.py does
    batch = [photo((arguments.side, arguments.side), 20)]
    steps = {
        name: partial(step, build(arguments.config_file, keys), batch, autocast=bool(keys))
        for name, keys in PRECISIONS.items()
    }
    losses = {name: take_step() for name, take_step in steps.items()}
    seconds = least_cpu_seconds(steps, arguments.repeats)
    rows = [[name, best, seconds["float32"] / best, losses[name]] for name, best in seconds.items()]
    print(tabulate(rows, ["", "CPU s", "faster", "total loss"], floatfmt=("", ".2f", ".2f", ".3f")))


if __name__ == "__main__":
    main()
