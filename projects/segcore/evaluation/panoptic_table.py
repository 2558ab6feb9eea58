"""Panoptic quality as Detectron2 reports it, and as a table."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from segcore.evaluation.panoptic_result import (
    SIZES,
    ClassCounts,
    PanopticResult,
    mean_quality,
)

logger = logging.getLogger(__name__)

# Suffix of Detectron2's result names -> row title, whether only things or only stuff count
GROUPS = {"": ("all", None), "_th": ("things", True), "_st": ("stuff", False)}
METRICS = ("PQ", "SQ", "RQ")


def panoptic_results(
    counts: ClassCounts,
    categories: Sequence[Mapping[str, Any]],
    boundary: ClassCounts | None = None,
) -> OrderedDict[str, dict[str, float]]:
    """Return the results in Detectron2's form, and log them as a table.

    Args:
        boundary: counts by the IoU of boundaries.

    Returns:
        {"panoptic_seg": PQ, SQ and RQ, with "_th" of things and "_st" of stuff, and
        "PQ-<class name>"}, in percent; NaN where no such class occurs. With ``boundary`` also
        "BoundaryPQ" and so on.
    """
    results = _results(counts, categories, "Panoptic quality")
    if boundary is not None:
        of_boundaries = _results(boundary, categories, "Boundary panoptic quality")
        results |= {f"Boundary{name}": value for name, value in of_boundaries.items()}
    return OrderedDict(panoptic_seg=results)


def _results(
    counts: ClassCounts, categories: Sequence[Mapping[str, Any]], heading: str
) -> dict[str, float]:
    results, rows = {}, []
    for suffix, (title, things) in GROUPS.items():
        mean = mean_quality(counts, categories, things)
        values = [100 * value for value in (mean.pq, mean.sq, mean.rq)]
        results |= {metric + suffix: value for metric, value in zip(METRICS, values, strict=True)}
        rows.append((title, *values, f"{mean.num_classes} classes"))
    per_class = 100 * counts.quality().T
    for index, category in enumerate(categories):
        results[f"PQ-{category['name']}"] = float(per_class[index, 0])
        if counts.occurs[index]:
            tp, fp, fn = (values[index] for values in (counts.tp, counts.fp, counts.fn))
            rows.append((category["name"], *per_class[index], f"tp {tp} fp {fp} fn {fn}"))
    logger.info("%s (classes that occur):\n%s", heading, _table(rows, ("", *METRICS, "")))
    return results


def log_details(result: PanopticResult) -> None:
    """Log panoptic quality by size of segment, and what each cause costs."""
    sizes = []
    for name, (low, high) in SIZES.items():
        mean = result.mean(size=name)
        bounds = f"from {low}" if np.isinf(high) else f"{low} to {high - 1}"
        sizes.append((name, *(100 * v for v in (mean.pq, mean.sq, mean.rq)), f"{bounds} pixels"))
    logger.info("By size of segment:\n%s", _table(sizes, ("", *METRICS, "area")))
    costs = [(cause, 100 * cost) for cause, cost in result.costs().items()]
    logger.info("PQ lost to (docs/evaluation.md):\n%s", _table(costs, ("cause", "PQ")))


def _table(rows: Sequence[Sequence], headers: Sequence[str]) -> str:
    return tabulate(rows, headers, floatfmt=".1f", tablefmt="pipe", missingval="-")
