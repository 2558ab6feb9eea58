"""AutoFocusFormer's backbones on one 512x512 image, on the operators and on their PyTorch twins.

    python -m benchmarks.backbone [--device cpu|cuda] [--repeats 5] [--sizes mini tiny]

Both run in turns in one process; times are medians, memory is the extra peak of a process of its
own. Random weights, float32.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from benchmarks.common import median_seconds, peak_mebibytes
from detectron2.modeling import build_backbone
from tabulate import tabulate
from torch import nn

from segcore.config import get_cfg
from segcore.ops._library import LIBRARIES, Library

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "backbones"
SIDE = 512
STEPS = ("forward", "forward + backward")


def make_model(size: str) -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"aff_{size}.yaml"))
    torch.manual_seed(0)
    return build_backbone(cfg).eval()


def operators(kind: str):
    """Run the operators in this context as compiled ("ours") or as PyTorch ("twin") code."""
    if kind == "ours":
        return nullcontext()
    return patch.dict(LIBRARIES, {d: Library(Path(), "switched off") for d in LIBRARIES})


def make_step(size: str, kind: str, step: str, device: str) -> Callable[[], object]:
    model = make_model(size).to(device)
    images = torch.randn(1, 3, SIDE, SIDE, device=device)

    def forward() -> None:
        with torch.inference_mode(), operators(kind):
            model(images)

    def forward_and_backward() -> None:
        with operators(kind):
            sum(tokens.features.sum() for tokens in model(images).values()).backward()
        model.zero_grad()

    return forward if step == "forward" else forward_and_backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["mini", "tiny"])
    arguments = parser.parse_args()
    device = arguments.device
    rows = []
    for size in arguments.sizes:
        for step in STEPS:
            steps = {kind: make_step(size, kind, step, device) for kind in ("twin", "ours")}
            times = median_seconds(steps, arguments.repeats, device)
            memory = {
                kind: peak_mebibytes(make_step, size, kind, step, device, device=device)
                for kind in steps
            }
            rows.append(
                [f"AFF-{size.capitalize()}", step]
                + [times[kind] * 1e3 for kind in steps]
                + [times["twin"] / times["ours"]]
                + [memory[kind] for kind in steps]
            )
    print(f"backbone on {device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    headers = ["model", "what", "twin ms", "ours ms", "faster", "twin MiB", "ours MiB"]
    print(tabulate(rows, headers, floatfmt=("", "", ".0f", ".0f", ".1f", ".0f", ".0f")))


if __name__ == "__main__":  # the benchmark starts processes
    main()
