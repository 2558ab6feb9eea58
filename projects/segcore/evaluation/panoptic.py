"""Panoptic quality by panopticapi, with one table for all classes."""

import contextlib
import io
import itertools
import json
import logging
import math
import os
import tempfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from tqdm import tqdm

from segcore.files import write_json

if TYPE_CHECKING:
    from panopticapi.evaluation import PQStat

logger = logging.getLogger(__name__)

# Suffix of Detectron2's result names -> row title, value of "isthing"
GROUPS = {"": ("all", None), "_th": ("things", True), "_st": ("stuff", False)}
MAX_THREADS = 16
METRICS = ("PQ", "SQ", "RQ")


class PanopticEvaluator(COCOPanopticEvaluator):
    """``COCOPanopticEvaluator`` that also evaluates data without things, or without stuff.

    Results are Detectron2's (PQ, SQ, RQ; with "_th" for things and "_st" for stuff; in percent;
    NaN where there is no such class), and "PQ-<class name>". "Panoptic Segmentation", section 4
    (Kirillov et al., CVPR 2019); the counting is panopticapi's.
    """

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Gather the predictions of all processes and compare; the result is the main process's.

        Raises:
            ValueError: an image of the ground truth has no prediction.
        """
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        ground_truth = _read_json(self._metadata.panoptic_json)
        categories = {category["id"]: category for category in ground_truth["categories"]}
        pairs = _pairs(ground_truth["annotations"], predictions)
        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            for prediction in predictions:
                Path(folder, prediction["file_name"]).write_bytes(prediction.pop("png_string"))
            if self._output_dir:
                path = Path(self._output_dir, "predictions.json")
                write_json({**ground_truth, "annotations": predictions}, path)
            counts = _count(
                pairs,
                PathManager.get_local_path(self._metadata.panoptic_root),
                folder,
                categories,
            )
        return _results(counts, categories)


def _read_json(path: str) -> dict[str, Any]:
    with PathManager.open(path, "r") as file:
        return json.load(file)


def _pairs(annotations: list[dict], predictions: list[dict]) -> list[tuple[dict, dict]]:
    by_image = {prediction["image_id"]: prediction for prediction in predictions}
    missing = [a["image_id"] for a in annotations if a["image_id"] not in by_image]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(annotations)} annotated images have no prediction, "
            f"the first of them image {missing[0]!r}"
        )
    return [(annotation, by_image[annotation["image_id"]]) for annotation in annotations]


def _count(
    pairs: list[tuple[dict, dict]], truth_folder: str, folder: str, categories: dict[int, dict]
) -> "PQStat":
    """Matched, missed and wrong segments a class, counted by panopticapi's code in threads.

    Its own pool would import PyTorch once a core where this process was not forked itself.
    """
    # Here, as panopticapi is not a package requirement.
    from panopticapi.evaluation import PQStat, pq_compute_single_core

    counts = PQStat()
    with (
        ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool,
        contextlib.redirect_stdout(io.StringIO()),  # it reports every image by print
    ):
        counts_of_images = pool.map(
            lambda pair: pq_compute_single_core(0, [pair], truth_folder, folder, categories), pairs
        )
        # Only on a terminal: a file of messages would get a line for each step of the bar.
        bar = tqdm(counts_of_images, "Panoptic quality", len(pairs), delay=1, disable=None)
        for counts_of_image in bar:
            counts += counts_of_image
    return counts


def _results(counts: "PQStat", categories: dict[int, dict]) -> OrderedDict[str, dict[str, float]]:
    per_class = {id_: _class_quality(counts, id_) for id_ in categories}
    results, summary = {}, []
    for suffix, (title, is_thing) in GROUPS.items():
        group = [
            quality
            for id_, quality in per_class.items()
            if is_thing in (None, bool(categories[id_]["isthing"])) and quality is not None
        ]
        means = [_mean(values) for values in zip(*group, strict=True)] or [math.nan] * 3
        results |= {metric + suffix: mean for metric, mean in zip(METRICS, means, strict=True)}
        summary.append((title, *means, f"{len(group)} classes"))
    rows = []
    for id_, quality in per_class.items():
        name, count = categories[id_]["name"], counts[id_]
        results[f"PQ-{name}"] = quality[0] if quality else math.nan
        if quality:
            rows.append((name, *quality, f"tp {count.tp} fp {count.fp} fn {count.fn}"))
    table = tabulate(
        [*summary, *rows], ("", *METRICS, ""), floatfmt=".1f", tablefmt="pipe", missingval="-"
    )
    logger.info("Panoptic quality (classes that occur):\n%s", table)
    return OrderedDict(panoptic_seg=results)


def _class_quality(counts: "PQStat", category_id: int) -> tuple[float, float, float] | None:
    """PQ, SQ and RQ of a class in percent; None where neither truth nor prediction has it."""
    count = counts[category_id]
    total = count.tp + 0.5 * count.fp + 0.5 * count.fn
    if total == 0:
        return None
    segmentation = count.iou / count.tp if count.tp else 0.0
    return (
        100 * float(count.iou / total),
        100 * float(segmentation),
        100 * float(count.tp / total),
    )


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
