"""Tables of the cost of a configuration."""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import nn

from segcore.analysis.counting import Counts, count
from segcore.analysis.formulas import UNKNOWN_TO_FVCORE
from segcore.analysis.measuring import measure_mebibytes, measure_modules, measure_seconds
from segcore.analysis.modules import sum_by_part
from segcore.engine import setup_config

Column = Mapping[str, float]


def main(args: argparse.Namespace) -> None:
    """Print what the model of a configuration costs."""
    cfg = setup_config(args.config_file, args.options)
    model, counts, size = analyze(cfg, args.size)
    parameters = (
        (name.rpartition(".")[0], parameter.numel()) for name, parameter in model.named_parameters()
    )
    columns = {
        "parameters M": _scaled(sum_by_part(parameters, args.depth), 1e6),
        "multiply-adds G": _scaled(sum_by_part(_modules(counts.multiply_adds), args.depth), 1e9),
        "activations M": _scaled(sum_by_part(_modules(counts.activations), args.depth), 1e6),
    }
    lines = []
    if args.time:
        seconds, share, mebibytes = _measure(cfg, size, args.repeats)
        columns["time %"] = _scaled(sum_by_part(share.items(), args.depth), share.total() / 100)
        lines = [
            f"{seconds:.3f} s, peak of {mebibytes:.0f} MiB beyond the model, on {cfg.MODEL.DEVICE} "
            f"with {torch.get_num_threads()} threads, float32"
        ]
    print(f"image of {size[0]}x{size[1]}, batch of 1\n")
    print(_table_of_parts(model, columns, args.depth), end="\n\n")
    print(_table_of_operators(counts.multiply_adds))
    print("\n".join(["", *lines]) if lines else "", end="\n" if lines else "")


def analyze(cfg: CfgNode, size: tuple[int, int]) -> tuple[nn.Module, Counts, tuple[int, int]]:
    """Count the operations of a configuration's network on one image.

    Args:
        size: (H, W) of the image.

    Returns:
        The model, without weights, the counts, and (H, W) as the model pads it.
    """
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    # Uninitialized memory costs addresses, no memory.
    model.to_empty(device="cpu")
    size = _padded(model, size)
    return model, count(model, model.network, size), size


def _padded(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    if not hasattr(model, "preprocess_images"):
        return size
    images = model.preprocess_images([{"image": torch.zeros(3, *size)}])
    return tuple(images.tensor.shape[-2:])


def _measure(
    cfg: CfgNode, size: tuple[int, int], repeats: int
) -> tuple[float, Counter[str], float]:
    """Return seconds, the seconds of each module, and the peak memory in MiB."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    device = torch.device(cfg.MODEL.DEVICE)
    images = torch.randn(1, 3, *size, device=device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return model.network(images)

    mebibytes = measure_mebibytes(run, device)
    seconds = measure_seconds(run, device, repeats)
    return seconds, measure_modules(model, run, device), mebibytes


def _modules(counts: Counter[tuple[str, str]]) -> Iterable[tuple[str, int]]:
    return ((module, value) for (module, _), value in counts.items())


def _scaled(sums: Counter[str], unit: float) -> Column:
    return {part: value / unit for part, value in sums.items()}


def _table_of_parts(model: nn.Module, columns: Mapping[str, Column], depth: int) -> str:
    parts = [name for name, _ in model.named_modules() if not name or name.count(".") < depth]
    rows = [
        [name or "model"] + [column.get(name, 0.0) for column in columns.values()]
        for name in parts
        if any(column.get(name) for column in columns.values())
    ]
    return tabulate(rows, headers=["part", *columns], floatfmt=".2f")


def _table_of_operators(multiply_adds: Counter[tuple[str, str]]) -> str:
    sums: Counter[str] = Counter()
    for (_, operator), value in multiply_adds.items():
        sums[operator] += value
    rows = [
        (operator, value / 1e9, "no" if operator in UNKNOWN_TO_FVCORE else "yes")
        for operator, value in sums.most_common()
        if value
    ]
    headers = ["operator", "multiply-adds G", "counted by fvcore"]
    return tabulate(rows, headers=headers, floatfmt=".2f")
