"""Whole networks side by side: Panoptic SegFormer and Mask2Former with a ResNet-50.

    python -m benchmarks.models [--device cpu|cuda] [--size 800 1333] [--repeats 3] [--targets 20]

The published COCO panoptic configurations with initial weights, one image, all three results. A
training step is forward, losses and backward. "Recomputed" sets CHECKPOINT_MASK_DECODERS. All run
in turns in one process; times are medians, memory is the extra peak of a process of its own, so
without the weights. On a shared machine only the ratios mean something.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import median_seconds, peak_mebibytes
from detectron2.modeling import build_model
from detectron2.structures import Instances
from tabulate import tabulate

from segcore.config import get_cfg

CONFIGS = Path(__file__).resolve().parents[1] / "configs/coco/panoptic-segmentation"
SYSTEMS = {
    "Mask2Former": ("maskformer2_R50_bs16_50ep.yaml", []),
    "Panoptic SegFormer": ("panoptic_segformer_r50_24e.yaml", []),
    "the same, recomputed": (
        "panoptic_segformer_r50_24e.yaml",
        ["MODEL.PANOPTIC_SEGFORMER.CHECKPOINT_MASK_DECODERS", True],
    ),
}
STEPS = ("inference", "training step")
THINGS, STUFF = 80, 53


def photo(size: tuple[int, int], targets: int) -> dict[str, Any]:
    """Return a photo of noise, annotated with rectangles, every third of them stuff."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    corners = torch.rand(targets, 2, generator=generator) * 0.7
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    inside_rows, inside_columns = (
        (axis >= corner[:, None]) & (axis < corner[:, None] + 0.2)
        for axis, corner in zip((rows, columns), corners.T, strict=True)
    )
    instances = Instances(size)
    number = torch.arange(targets)
    instances.gt_classes = torch.where(number % 3 == 2, THINGS + number % STUFF, number % THINGS)
    instances.gt_masks = inside_rows[:, :, None] & inside_columns[:, None]
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances}


def make_run(
    system: str, step: str, size: tuple[int, int], targets: int, device: str
) -> Callable[[], object]:
    """Build the model; return a function that runs it once."""
    file, options = SYSTEMS[system]
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / file))
    cfg.merge_from_list(["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *options])
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = [photo(size, targets)]
    if step == "inference":
        model.eval()
        return torch.inference_mode()(lambda: model(batch))
    model.train()

    def train() -> None:
        model.zero_grad()
        sum(model(batch).values()).backward()

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height, width")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--targets", type=int, default=20, help="segments in the photo")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    arguments = parser.parse_args()
    sizes = (tuple(arguments.size), arguments.targets, arguments.device)

    rows = []
    for step in arguments.steps:
        systems = [s for s in SYSTEMS if step == "training step" or not SYSTEMS[s][1]]
        functions = {system: make_run(system, step, *sizes) for system in systems}
        seconds = median_seconds(functions, arguments.repeats, arguments.device)
        for system in systems:
            ratio = seconds[system] / seconds["Mask2Former"]
            memory = peak_mebibytes(make_run, system, step, *sizes, device=arguments.device)
            rows.append([step, system, seconds[system], ratio, memory])
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    height, width = arguments.size
    print(
        f"one image of {height} x {width} on {name}, {torch.get_num_threads()} threads,"
        f" PyTorch {torch.__version__}"
    )
    headers = ["step", "ResNet-50", "s", "of Mask2Former's time", "MiB"]
    print(tabulate(rows, headers, floatfmt=("", "", ".2f", ".2f", ".0f")))


if __name__ == "__main__":
    main()
