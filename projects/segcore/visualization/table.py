"""Tables of the segments of a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances
from tabulate import tabulate

from segcore.data.panoptic_format import Category
from segcore.text import printable
from segcore.visualization.overlay import instance_areas
from segcore.visualization.segment_map import SegmentMap

MAX_NAME_LENGTH = 60  # characters
NOTHING_FOUND = "nothing found"


@dataclass(frozen=True)
class Row:
    """One segment: ``area`` is its share of the photo; ``score`` is None if unknown."""

    name: str
    is_thing: bool
    area: float
    score: float | None


def panoptic_rows(
    areas: Sequence[int],
    segments: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    pixels: int,
) -> list[Row]:
    """Return the segments by falling area.

    Args:
        areas: in pixels, of each segment.
        segments: Detectron2's ``segments_info``, with "score" where it is known.
        categories: see :func:`categories_of`.
        pixels: number of pixels of the photo.
    """
    rows = [
        Row(
            categories[segment["category_id"]]["name"],
            bool(segment["isthing"]),
            area / pixels,
            segment.get("score"),
        )
        for segment, area in zip(segments, areas, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.area)


def instance_rows(instances: Instances, categories: Sequence[Category]) -> list[Row]:
    """Return instances with pred_masks or pred_masks_rle by falling score."""
    height, width = instances.image_size
    rows = [
        Row(categories[label]["name"], True, area / (height * width), score)
        for label, area, score in zip(
            instances.pred_classes.tolist(),
            instance_areas(instances).tolist(),
            instances.scores.tolist(),
            strict=True,
        )
    ]
    return sorted(rows, key=lambda row: -row.score)


def semantic_rows(labels: np.ndarray, categories: Sequence[Category]) -> list[Row]:
    """Return the classes of a label map (H, W) by falling area."""
    classes = SegmentMap.from_ids(labels, range(len(categories)))
    rows = [
        Row(category["name"], bool(category["isthing"]), extent.area / labels.size, None)
        for category, extent in zip(categories, classes.extents, strict=True)
        if extent.area
    ]
    return sorted(rows, key=lambda row: -row.area)


def format_rows(rows: Sequence[Row]) -> str:
    """Format the rows as a plain text table, or say that there is none; class names are escaped."""
    if not rows:
        return NOTHING_FOUND
    return tabulate(
        [
            (
                printable(row.name, MAX_NAME_LENGTH),
                "thing" if row.is_thing else "stuff",
                f"{row.area:.1%}",
                "" if row.score is None else f"{row.score:.2f}",
            )
            for row in rows
        ],
        headers=["class", "kind", "area", "score"],
        colalign=("left", "left", "right", "right"),
        disable_numparse=True,
    )
