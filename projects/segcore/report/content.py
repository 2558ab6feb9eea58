"""What the report of an evaluation holds: plain lists and dictionaries, which its page shows.

The same dictionary is written into the page as JSON, so that two reports can be compared.
"""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from segcore.data.panoptic_dataset import panoptic_metadata
from segcore.data.panoptic_format import Category
from segcore.errors import ImageError
from segcore.evaluation.panoptic_result import SIZES, PanopticResult
from segcore.evaluation.panoptic_table import GROUPS
from segcore.report.photos import ComparedPhoto
from segcore.report.pictures import photo_uri
from segcore.text import printable

VERSION = 1  # of the dictionary, to be changed with its form
NAME_LENGTH = 60
MAX_THREADS = 8
TASKS = {
    "panoptic_seg": "Panoptic segmentation",
    "sem_seg": "Semantic segmentation",
    "segm": "Instance masks",
    "bbox": "Instance boxes",
}
# Results of single classes are called by these and the class, such as "IoU-cat".
CLASS_METRICS = ("PQ", "BoundaryPQ", "IoU", "ACC", "BoundaryIoU", "AP")
SETTINGS = (
    *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.WEIGHTS", "MODEL.DEVICE"),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.IMAGE_SIZE"),
    *("SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SEED"),
)


def evaluation_content(
    cfg: CfgNode, dataset_name: str, results: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return what every evaluation has: settings, results by task and by class, curves."""
    return {
        "version": VERSION,
        "kind": "evaluation",
        "title": f"{cfg.MODEL.META_ARCHITECTURE} on {printable(dataset_name)}",
        "dataset": printable(dataset_name),
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "settings": _settings(cfg),
        "config": cfg.dump(),
        "tasks": [_task(name, values) for name, values in results.items()],
        "curves": _curves(Path(cfg.OUTPUT_DIR, "metrics.json")),
        "panoptic": None,
        "categories": [],
        "photos": [],
    }


def _settings(cfg: CfgNode) -> list[tuple[str, str]]:
    rows = []
    for key in SETTINGS:
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        rows.append((key, printable(node) or "-"))
    return [*rows, ("PyTorch", torch.__version__), ("Python", platform.python_version())]


def _curves(metrics_file: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return the finite values of each curve of each panel."""
    # The engine imports the evaluators.
    from segcore.engine.curves import curves_by_panel
    from segcore.engine.metrics_file import read_metrics

    return {
        title: {
            name: [(iteration, value) for iteration, value in points if math.isfinite(value)]
            for name, points in curves.items()
        }
        for title, curves in curves_by_panel(read_metrics(metrics_file)).items()
    }


def _task(name: str, results: Mapping[str, float]) -> dict[str, Any]:
    """Split results of a task into those of all classes and those of each."""
    overall, by_class = [], {}
    for key, value in results.items():
        if not isinstance(value, int | float):
            continue
        metric, dash, label = key.partition("-")
        if dash and metric in CLASS_METRICS:
            by_class.setdefault(label, {})[metric] = value
        else:
            overall.append((printable(key, NAME_LENGTH), value))
    metrics = [m for m in CLASS_METRICS if any(m in values for values in by_class.values())]
    return {
        "name": name,
        "title": TASKS.get(name, printable(name, NAME_LENGTH)),
        "overall": overall,
        "metrics": metrics,
        "classes": [
            {"name": printable(label, NAME_LENGTH), "values": [values.get(m) for m in metrics]}
            for label, values in by_class.items()
        ],
    }


def category_content(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Return name, color and kind of each class."""
    colors = panoptic_metadata(list(categories))["stuff_colors"]
    return [
        {
            "name": printable(category["name"], NAME_LENGTH) or f"id {category['id']}",
            "thing": bool(category["isthing"]),
            "color": [int(channel) % 256 for channel in color],
        }
        for category, color in zip(categories, colors, strict=True)
    ]


def panoptic_content(
    result: PanopticResult, boundary: PanopticResult | None = None
) -> dict[str, Any]:
    """Return qualities by group, size and class, costs and confusions, in percent or counts.

    Args:
        boundary: the result by boundaries, whose PQ stands beside the other.
    """
    counts, confusion = result.counts(), result.confusion()
    things = {None: "all", True: "things", False: "stuff"}
    classes = zip(
        *(100 * counts.quality()), counts.tp, counts.fp, counts.fn, counts.occurs, strict=True
    )
    truth, predicted = confusion.nonzero()
    of_boundaries = [{} for _ in result.categories]
    if boundary is not None:
        of_boundaries = [{"boundary_pq": 100 * float(pq)} for pq in boundary.counts().quality()[0]]
    return {
        "num_images": result.num_images,
        "groups": [
            {"name": title, **_quality(result, boundary, things=group)}
            for title, group in GROUPS.values()
        ],
        "sizes": [{"name": name, **_quality(result, boundary, size=name)} for name in SIZES],
        "classes": [
            {"pq": float(pq), "sq": float(sq), "rq": float(rq)}
            | {"tp": int(tp), "fp": int(fp), "fn": int(fn), "occurs": bool(occurs)}
            | boundary_pq
            for (pq, sq, rq, tp, fp, fn, occurs), boundary_pq in zip(
                classes, of_boundaries, strict=True
            )
        ],
        "costs": [
            {
                "name": name,
                "parts": {c: 100 * v for c, v in result.costs(things=group).items()},
            }
            for group, name in things.items()
        ],
        # Rows by truth, columns by prediction; the number of classes stands for "none".
        "confusion": [
            [int(row), int(column), int(confusion[row, column])]
            for row, column in zip(truth, predicted, strict=True)
        ],
    }


def _quality(
    result: PanopticResult, boundary: PanopticResult | None, **selection: Any
) -> dict[str, float]:
    mean = result.mean(**selection)
    values = {"pq": mean.pq, "sq": mean.sq, "rq": mean.rq}
    if boundary is not None:
        values["boundary_pq"] = boundary.mean(**selection).pq
    return {name: 100 * value for name, value in values.items()} | {"num": mean.num_classes}


def photo_content(photos: Iterable[ComparedPhoto]) -> list[dict[str, Any]]:
    """Return photos with pictures and segments; a photo that cannot be read has no picture."""
    photos = list(photos)
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        pictures = pool.map(lambda photo: _picture(photo.file_name), photos)
        return [
            {
                "file": printable(Path(photo.file_name).name),
                "id": printable(photo.image_id),
                "quality": round(100 * photo.quality, 1),
                "by_class": {
                    label: round(100 * quality, 1) for label, quality in photo.class_quality.items()
                },
                "picture": picture,
                "truth": {**photo.truth.as_json(), "segments": photo.truth_segments},
                "prediction": {**photo.prediction.as_json(), "segments": photo.predicted_segments},
            }
            for photo, picture in zip(photos, pictures, strict=True)
        ]


def _picture(path: str) -> str | None:
    try:
        return photo_uri(path)
    except ImageError:
        return None
