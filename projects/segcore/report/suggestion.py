"""A configuration for the data and the machine at hand."""

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from detectron2.config import CfgNode

from segcore.config import load_config
from segcore.config.yaml_files import read_config_files
from segcore.config_names import find_config
from segcore.data.custom_data import DATASET_NAMES, PATH_KEYS
from segcore.evaluation.panoptic_result import SIZES
from segcore.files import write_bytes
from segcore.report.data_statistics import SplitStatistics
from segcore.report.training_cost import TrainingCost, available_memory

SIDE_STEP, SMALLEST_SIDE = 32, 128  # pixels
SMALL_THINGS_SCALE = 1.5  # of the photo, where most things are small
MEMORY_SHARE = 0.7  # of what is free
EPOCHS, LEAST_PHOTOS_SEEN = 50, 8000
NUM_PERIODS = 10  # evaluations and checkpoints
MAX_WORKERS = 8
# Keys that count iterations: Detectron2's, and the last parts of all, of which those that are not
# set belong to other systems.
DETECTRON2_ITERATION_KEYS = ("SOLVER.STEPS", "SOLVER.WARMUP_ITERS")
ITERATION_KEYS = {"STEPS", "START_STEPS", "END_STEPS", "WARMUP_ITERS", "WARMUP_STAGES"}
# Keys of INPUT that are sizes in pixels.
SIZE_KEYS = (
    *("IMAGE_SIZE", "MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"),
    *("SIZE_DIVISIBILITY", "CROP.RESIZE_MIN_SIZES", "CROP.RESIZE_MAX_SIZE"),
)


class Suggestion(NamedTuple):
    """Values by key, and what each follows from; the time of the training in seconds or None."""

    values: dict[str, Any]
    reasons: list[str]
    seconds: float | None


def suggest(
    cfg: CfgNode,
    training: SplitStatistics,
    cost: TrainingCost | None,
    *,
    evaluates: bool,
    given: Collection[str] = (),
) -> Suggestion:
    """Choose sizes, batch, learning rate, schedule and periods.

    Args:
        cfg: the configuration to start from; nothing becomes larger than there.
        training: of the training split.
        cost: of a training step by ``cfg``; None leaves the batch to the number of photos.
        evaluates: whether there is a test split.
        given: keys that were set for ``cfg``, see :func:`given_keys`.
    """
    values, reasons = _sizes(cfg, training)
    solver, num_photos = cfg.SOLVER, len(training.sizes)
    scale = values.get("INPUT.IMAGE_SIZE", cfg.INPUT.IMAGE_SIZE) / cfg.INPUT.IMAGE_SIZE
    pixels = None if cost is None else scale**2 * cost.size[0] * cost.size[1]

    batch = _batch(solver.IMS_PER_BATCH, num_photos, cost, pixels)
    values["SOLVER.IMS_PER_BATCH"] = batch
    free = "" if cost is None else f", {available_memory(cost.device) / 2**30:.1f} GiB free"
    reasons.append(f"batch {batch}: {num_photos} photos{free}")
    for key in ("ACCUMULATE", "REFERENCE_WORLD_SIZE"):
        if solver[key] and batch % solver[key]:
            values[f"SOLVER.{key}"] = 1 if key == "ACCUMULATE" else 0
    share = batch / solver.IMS_PER_BATCH
    for key in ("BASE_LR", "BASE_LR_END") if share != 1 else ():
        values[f"SOLVER.{key}"] = float(f"{solver[key] * share:.3g}")
    reasons.append(f"learning rate in proportion: {solver.BASE_LR:g} for {solver.IMS_PER_BATCH}")

    most = solver.MAX_ITER * solver.IMS_PER_BATCH
    seen = min(most, max(EPOCHS * num_photos, LEAST_PHOTOS_SEEN))
    iterations = max(1, math.ceil(seen / batch))
    values["SOLVER.MAX_ITER"] = iterations
    if iterations != solver.MAX_ITER:
        values |= _scaled_iterations(
            cfg, iterations / solver.MAX_ITER, {*DETECTRON2_ITERATION_KEYS, *given}
        )
    reasons.append(f"{iterations} iterations: each photo {seen / max(num_photos, 1):.0f} times")
    period = max(1, iterations // NUM_PERIODS)
    values["SOLVER.CHECKPOINT_PERIOD"] = period
    values["TEST.EVAL_PERIOD"] = period if evaluates else 0

    cores = os.cpu_count() or 1
    on_gpu = cost is not None and cost.device == "cuda"
    values["DATALOADER.NUM_WORKERS"] = min(MAX_WORKERS, cores - 1) if on_gpu else min(1, cores - 1)
    seconds = None if cost is None else iterations * cost.seconds_of_iteration(batch, pixels)
    return Suggestion(values, reasons, seconds)


def given_keys(config_file: str, opts: Sequence[str]) -> set[str]:
    """Return the keys that a YAML file ("" for none), its bases or KEY VALUE pairs set."""
    files = read_config_files(config_file) if config_file else []
    return {*opts[::2], *(key for file in files for key in file.lines)}


def _sizes(cfg: CfgNode, training: SplitStatistics) -> tuple[dict[str, Any], list[str]]:
    """Scale the sizes of ``INPUT`` down to the photos."""
    longest = float(np.percentile(training.sizes.max(axis=1), 90)) if len(training.sizes) else 0
    things = np.array([bool(category["isthing"]) for category in training.categories])
    areas = training.areas[things[training.classes]] if len(training.areas) else training.areas
    mostly_small = len(areas) > 0 and np.median(areas) < SIZES["small"][1]
    target = longest * (SMALL_THINGS_SCALE if mostly_small else 1)
    inputs = cfg.INPUT
    uses_squares = inputs.DATASET_MAPPER_NAME.endswith("_lsj")
    present = inputs.IMAGE_SIZE if uses_squares else inputs.MAX_SIZE_TRAIN
    side = max(SMALLEST_SIDE, math.ceil(target / SIDE_STEP) * SIDE_STEP)
    if longest == 0 or side >= present:
        return {}, []
    factor = side / present
    values = {}
    for key in SIZE_KEYS:
        section, _, name = key.rpartition(".")
        value = (inputs[section] if section else inputs)[name]
        if np.min(value) > 0:
            values[f"INPUT.{key}"] = _scaled(value, factor, SIDE_STEP)
    if inputs.CROP.TYPE.startswith("absolute"):
        values["INPUT.CROP.SIZE"] = _scaled(inputs.CROP.SIZE, factor, SIDE_STEP)
    reason = f"sizes: photos have {longest:.0f} pixels"
    return values, [reason + (", and most things are small" if mostly_small else "")]


def _batch(most: int, num_photos: int, cost: TrainingCost | None, pixels: float | None) -> int:
    batch = most
    while batch > 1 and (
        batch > num_photos
        or (
            cost is not None
            # NaN, where memory is not known, is no reason.
            and cost.memory_of(batch, pixels) > MEMORY_SHARE * available_memory(cost.device)
        )
    ):
        batch //= 2
    return batch


def _scaled_iterations(
    node: CfgNode, factor: float, keys: Collection[str], prefix: str = ""
) -> dict[str, Any]:
    """Scale those of ``keys`` that count iterations, whatever system they are of."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            values |= _scaled_iterations(value, factor, keys, f"{prefix}{key}.")
        elif key in ITERATION_KEYS and prefix + key in keys and value:
            values[prefix + key] = _scaled(value, factor, 1)
    return values


def _scaled(value: Any, factor: float, step: int) -> Any:
    """Scale a number, or each of a sequence, to a multiple of ``step``, which is at least that."""
    if isinstance(value, Sequence):
        return [_scaled(item, factor, step) for item in value]
    return max(step, round(value * factor / step) * step) if value else value


def write_suggestion(
    path: str | Path, suggestion: Suggestion, config_file: str, opts: Sequence[str]
) -> None:
    """Write a configuration that starts as it is.

    Args:
        config_file: that the suggestion starts from, or "".
        opts: KEY VALUE pairs that came with it; they stay, but for what is suggested.

    Raises:
        OutputError: the file cannot be written.
    """
    given = load_config(config_file, opts)
    paths = [f"DATASETS.PANOPTIC.{split}.{key}" for split in DATASET_NAMES for key in PATH_KEYS]
    values = {key: _value(given, key) for key in (*paths, *opts[::2])} | suggestion.values
    content = {"_BASE_": os.path.abspath(find_config(config_file))} if config_file else {}
    for key, value in values.items():
        node: dict[str, Any] = content
        *sections, name = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = list(value) if isinstance(value, tuple) else value
    lines = [f"# {line}\n" for line in ("Suggested by train_net.py:", *suggestion.reasons)]
    text = "".join(lines) + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    write_bytes(text.encode(), path)


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    is_path = key.startswith("DATASETS.PANOPTIC.") and isinstance(node, str) and node
    return os.path.abspath(os.path.expanduser(node)) if is_path else node
