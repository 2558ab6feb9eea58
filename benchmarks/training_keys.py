"""Memory and CPU time of a training step under the keys of docs/recipes.md.

    OMP_NUM_THREADS=1 python -m benchmarks.training_keys [--only NAME ...]

The published Mask2Former on COCO with initial weights, on the CPU: two photos of noise with 20
segments each. Every row is a process of its own. Memory is the peak of the first step beyond the
model's weights: activations, gradients, optimizer. Time is the CPU time of the second.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks.common import peak_mebibytes
from benchmarks.models import CONFIGS, photo
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from segcore.config import get_cfg
from segcore.engine.freezing import EvaluationMode, freeze_stages
from segcore.engine.train_loop import TrainLoop, autocast_dtype
from segcore.solver import build_optimizer

R50 = "maskformer2_R50_bs16_50ep.yaml"
SWIN = "swin/maskformer2_swin_tiny_bs16_50ep.yaml"
IMAGES, TARGETS = 2, 20
# Name -> config, side of the photos in pixels, keys.
ROWS: dict[str, tuple[str, int, Sequence[object]]] = {
    "R50": (R50, 512, ()),
    "side 384": (R50, 384, ()),
    "ACCUMULATE 2": (R50, 512, ("SOLVER.ACCUMULATE", 2)),
    "FREEZE 2": (R50, 512, ("MODEL.BACKBONE.FREEZE", 2)),
    "FREEZE 5": (R50, 512, ("MODEL.BACKBONE.FREEZE", 5)),
    "TRAIN_NUM_POINTS 3136": (R50, 512, ("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 3136)),
    "NUM_OBJECT_QUERIES 50": (R50, 512, ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 50)),
    "NUM_OBJECT_QUERIES 200": (R50, 512, ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 200)),
    "bfloat16": (R50, 512, ("SOLVER.AMP.CPU_BFLOAT16", True)),
    "Swin-T": (SWIN, 512, ()),
    "Swin-T, USE_CHECKPOINT": (SWIN, 512, ("MODEL.SWIN.USE_CHECKPOINT", True)),
}


def make_steps(name: str, seconds_file: Path) -> Callable[[], None]:
    """Build the model; return a function that takes two training steps and keeps the time."""
    config, side, options = ROWS[name]
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    torch.manual_seed(0)
    model = build_model(cfg)
    frozen = EvaluationMode(freeze_stages(model, cfg.MODEL.BACKBONE.FREEZE))
    batch = [photo((side, side), TARGETS) for _ in range(IMAGES)]
    loop = TrainLoop(
        model,
        build_optimizer(cfg, model),
        data_loader=[batch, batch],
        dtype=autocast_dtype(cfg, "cpu"),
        accumulate=cfg.SOLVER.ACCUMULATE,
    )

    def take_steps() -> None:
        with EventStorage() as loop.storage:
            for loop.iter in range(2):
                frozen.before_step()
                start = time.process_time()
                loop.run_step()
        seconds_file.write_text(str(time.process_time() - start))

    return take_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        seconds_file = Path(folder, "seconds")
        for name in arguments.only:
            memory = peak_mebibytes(make_steps, name, seconds_file, device="cpu")
            rows.append([name, memory, float(seconds_file.read_text())])
            print(tabulate(rows[-1:], floatfmt=".1f", tablefmt="plain"), flush=True)
    print(tabulate(rows, ["", "MiB", "CPU s"], floatfmt=("", ".0f", ".1f")))


if __name__ == "__main__":
    main()
