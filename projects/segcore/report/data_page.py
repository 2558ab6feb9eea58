"""The page of ``--check-data``: problems, classes, sizes, photos, what training will cost."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from segcore.data.check_splits import SHARED_PHOTOS, shared_photos
from segcore.data.custom_data import configured_sources
from segcore.data.derived import PanopticSource
from segcore.data.panoptic_format import read_panoptic_json
from segcore.data.report import EXAMPLES_SHOWN, Report
from segcore.errors import DataError, ImageError
from segcore.evaluation.panoptic_result import SIZES
from segcore.report.charts import histogram_svg
from segcore.report.content import NAME_LENGTH, category_content
from segcore.report.data_statistics import ShownPhoto, SplitStatistics, split_statistics
from segcore.report.page import write_page
from segcore.report.pictures import photo_uri
from segcore.report.suggestion import given_keys, suggest, write_suggestion
from segcore.report.training_cost import TrainingCost, available_memory, measure_training
from segcore.text import printable

logger = logging.getLogger(__name__)

MAX_SHARED_SHOWN = 50
SMALL = SIZES["small"][1]


def report_on_data(
    cfg: CfgNode,
    reports: Sequence[Report],
    *,
    suggestion: str | None = None,
    config_file: str = "",
    opts: Sequence[str] = (),
) -> list[Path]:
    """Write ``OUTPUT_DIR/data.html``, and a configuration if one is asked for.

    Args:
        cfg: that names the data; where the reports have no errors, set up for them.
        reports: of the check of each split.
        suggestion: path of the configuration to write; needs a training split without errors.
        config_file, opts: what ``cfg`` was loaded from.

    Returns:
        The files written.

    Raises:
        OutputError: a file cannot be written.
        DataError: a configuration is asked for, and there are no data for training or they have
            errors; the page is written.
    """
    sources = configured_sources(cfg)
    statistics = {
        report.split: split_statistics(sources[report.split])
        for report in reports
        if report.ok and report.split in sources
    }
    training = statistics.get("TRAIN")
    is_sound = all(report.ok for report in reports)
    cost, remark = _cost(cfg, training) if training is not None and is_sound else (None, "")
    proposed = None
    if training is not None and is_sound:
        proposed = suggest(
            cfg,
            training,
            cost,
            evaluates="TEST" in statistics,
            given=given_keys(config_file, opts),
        )
        if suggestion:
            write_suggestion(suggestion, proposed, config_file, opts)
    shares = any(p.kind == SHARED_PHOTOS for report in reports for p in report.problems)
    content = data_content(reports, statistics, sources if shares else {})
    content["cost"] = _cost_content(cfg, cost, remark)
    content["suggestion"] = proposed and {
        "values": list(proposed.values.items()),
        "reasons": proposed.reasons,
        "hours": None if proposed.seconds is None else proposed.seconds / 3600,
    }
    path = Path(cfg.OUTPUT_DIR, "data.html")
    write_page(path, "data.html", data=content, sizes=_histogram(statistics))
    if suggestion and proposed is None:
        raise DataError(
            "--suggest-config: expected DATASETS.PANOPTIC.TRAIN to name data without errors "
            f"({path} shows those that there are)"
        )
    return [path, Path(suggestion)] if suggestion else [path]


def data_content(
    reports: Sequence[Report],
    statistics: Mapping[str, SplitStatistics],
    sources: Mapping[str, PanopticSource],
) -> dict[str, Any]:
    """Return what the page shows, but for costs.

    Args:
        statistics: by split, of those without errors.
        sources: of both splits where they share photos, which are listed then.
    """
    categories = next((s.categories for s in statistics.values()), ())
    return {
        "kind": "data",
        "title": "Data check",
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "problems": _problems(reports),
        "splits": [_split(report, statistics.get(report.split)) for report in reports],
        "classes": _classes(reports, statistics),
        "shared": _shared(sources),
        "categories": category_content(categories),
        "photos": [
            photo
            for split, part in statistics.items()
            for photo in (_shown(split, shown) for shown in part.shown)
        ],
    }


def _cost(cfg: CfgNode, training: SplitStatistics) -> tuple[TrainingCost | None, str]:
    """Measure a training step; else say why that was impossible."""
    height, width = np.median(training.sizes, axis=0).astype(int).tolist()
    logger.info("Measuring a training step")
    try:
        return measure_training(cfg, (height, width), round(training.segments_a_photo)), ""
    except (RuntimeError, ValueError, MemoryError) as error:
        return None, f"{type(error).__name__}: {printable(error)}"


def _cost_content(cfg: CfgNode, cost: TrainingCost | None, remark: str) -> dict[str, Any]:
    if cost is None:
        return {"remark": remark, "rows": []}
    batches = sorted({1, 2, 4, 8, 16, cfg.SOLVER.IMS_PER_BATCH})
    return {
        "remark": remark,
        "device": cost.device,
        "size": list(cost.size),
        "free": available_memory(cost.device) / 2**30,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "iterations": cfg.SOLVER.MAX_ITER,
        "hours": cfg.SOLVER.MAX_ITER * cost.seconds_of_iteration(cfg.SOLVER.IMS_PER_BATCH) / 3600,
        "rows": [
            {
                "batch": batch,
                "seconds": cost.seconds_of_iteration(batch),
                "memory": cost.memory_of(batch) / 2**30,
            }
            for batch in batches
        ],
    }


def _problems(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Group the problems by kind, errors first."""
    groups: dict[tuple[bool, str], dict[str, Any]] = {}
    for report in reports:
        for problem in report.problems:
            empty = {"kind": problem.kind, "error": problem.is_error, "count": 0, "examples": []}
            group = groups.setdefault((problem.is_error, problem.kind), empty)
            group["count"] += 1
            if len(group["examples"]) < EXAMPLES_SHOWN:
                group["examples"].append(str(problem))
    return sorted(groups.values(), key=lambda group: not group["error"])


def _split(report: Report, statistics: SplitStatistics | None) -> dict[str, Any]:
    split = {
        "name": report.split or "data",
        "source": printable(report.source),
        "photos": report.num_photos,
        "annotated": report.num_annotations,
        "segments": sum(count.segments for count in report.classes),
        "measured": None,
    }
    if statistics is None or not len(statistics.sizes):
        return split
    sizes = statistics.sizes
    median = np.median(sizes, axis=0).astype(int).tolist()
    largest = sizes[sizes.prod(axis=1).argmax()].tolist()
    return split | {
        "measured": statistics.num_measured,
        "segments_a_photo": statistics.segments_a_photo,
        "median_size": f"{median[1]} x {median[0]}",
        "largest_size": f"{largest[1]} x {largest[0]}",
        "unlabeled": 100 * statistics.unlabeled_share,
        "small": 100 * _share(statistics.areas < SMALL),
        "touching": int(statistics.touching.sum()),
    }


def _classes(
    reports: Sequence[Report], statistics: Mapping[str, SplitStatistics]
) -> list[dict[str, Any]]:
    """Return a row a class, with numbers of each split; classes are told apart by their names."""
    rows: dict[str, dict[str, Any]] = {}
    for report in reports:
        part = statistics.get(report.split)
        for index, count in enumerate(report.classes):
            row = rows.setdefault(
                count.name,
                {
                    "name": printable(count.name, NAME_LENGTH),
                    "thing": count.is_thing,
                    "splits": {},
                },
            )
            numbers: dict[str, Any] = {"segments": count.segments}
            if part is not None:
                of_class = part.classes == index
                areas = part.areas[of_class]
                numbers |= {
                    "photos": int(part.photos_with[index]),
                    "pixels": 100 * areas.sum() / max(1, part.areas.sum()),
                    "median": float(np.median(areas)) if len(areas) else None,
                    "small": 100 * _share(areas < SMALL) if len(areas) else None,
                    "touching": 100 * _share(part.touching[of_class]) if len(areas) else None,
                }
            row["splits"][report.split or "data"] = numbers
    return list(rows.values())


def _share(chosen: np.ndarray) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0


def _shared(sources: Mapping[str, PanopticSource]) -> dict[str, Any]:
    data = {split: read_panoptic_json(source.json) for split, source in sources.items()}
    images = {split: source.images for split, source in sources.items()}
    pairs = shared_photos(images, data) if data else []
    names = [[printable(path.name) for path in pair] for pair in pairs[:MAX_SHARED_SHOWN]]
    return {"count": len(pairs), "pairs": names}


def _shown(split: str, photo: ShownPhoto) -> dict[str, Any]:
    try:
        picture = photo_uri(photo.path)
    except ImageError:
        picture = None
    return {
        "file": printable(Path(photo.path).name),
        "split": split,
        "picture": picture,
        "truth": {**photo.segment_map.as_json(), "segments": photo.segments},
    }


def _histogram(statistics: Mapping[str, SplitStatistics]) -> str:
    """Draw the areas of things and stuff of all splits."""
    if not any(len(part.areas) for part in statistics.values()):
        return ""
    groups: dict[str, list[np.ndarray]] = {"things": [], "stuff": []}
    for part in statistics.values():
        are_things = np.array([bool(category["isthing"]) for category in part.categories])
        for name, chosen in (("things", are_things), ("stuff", ~are_things)):
            groups[name].append(part.areas[chosen[part.classes]])
    marks = [low for low, _ in SIZES.values() if low]
    areas = {name: np.concatenate(parts) for name, parts in groups.items()}
    return histogram_svg(areas, "pixels", marks)
