"""The segments of a result as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate

from segcore.data.panoptic_format import Category


@dataclass(frozen=True)
class Row:
    """One segment: ``area`` is its share of the photo, ``score`` is None where unknown."""

    name: str
    is_thing: bool
    area: float
    score: float | None


def panoptic_rows(
    panoptic: torch.Tensor,
    segments: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    class_scores: torch.Tensor | None = None,
) -> list[Row]:
    """Segments by falling area.

    Args:
        panoptic: (H, W) segment ids.
        segments: Detectron2's ``segments_info``.
        categories: see :func:`categories_of`.
        class_scores: (K, H, W) semantic result. A segment's score is its class's mean over the
            segment, at most 1.
    """
    areas = torch.bincount(panoptic.flatten().long()).tolist()
    rows = []
    for segment in segments:
        category = categories[segment["category_id"]]
        score = segment.get("score")
        if score is None and class_scores is not None:
            pixels = class_scores[segment["category_id"]][panoptic == segment["id"]]
            score = pixels.mean().clamp(max=1).item()
        area = areas[segment["id"]] / panoptic.numel()
        rows.append(Row(category["name"], bool(segment["isthing"]), area, score))
    return sorted(rows, key=lambda row: -row.area)


def instance_rows(instances: Any, categories: Sequence[Category]) -> list[Row]:
    """Instances by falling score."""
    areas = (instances.pred_masks > 0).flatten(1).float().mean(dim=1).tolist()
    rows = [
        Row(categories[label]["name"], True, area, score)
        for label, area, score in zip(
            instances.pred_classes.tolist(), areas, instances.scores.tolist(), strict=True
        )
    ]
    return sorted(rows, key=lambda row: -row.score)


def semantic_rows(labels: torch.Tensor, categories: Sequence[Category]) -> list[Row]:
    """Classes of a label map (H, W) by falling area."""
    areas = torch.bincount(labels.flatten(), minlength=len(categories)).tolist()
    rows = [
        Row(category["name"], bool(category["isthing"]), area / labels.numel(), None)
        for category, area in zip(categories, areas, strict=True)
        if area
    ]
    return sorted(rows, key=lambda row: -row.area)


def format_rows(rows: Sequence[Row]) -> str:
    """A plain text table."""
    return tabulate(
        [
            (
                row.name,
                "thing" if row.is_thing else "stuff",
                f"{row.area:.1%}",
                "" if row.score is None else f"{row.score:.2f}",
            )
            for row in rows
        ],
        headers=["class", "kind", "area", "score"],
        colalign=("left", "left", "right", "right") if rows else None,
        disable_numparse=True,
    )
