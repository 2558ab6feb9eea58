"""Statistics of a data set in COCO panoptic format that its page shows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from segcore.data.derived import PanopticSource
from segcore.data.panoptic_format import (
    Annotation,
    Category,
    count_pixels,
    locate_segments,
    num_workers,
    read_panoptic_json,
    read_panoptic_png,
)
from segcore.report.pictures import SmallMap, small_map

MAX_MEASURED = 1000  # photos of which every pixel is read, spread over the data set
MAX_SHOWN = 12


class ShownPhoto(NamedTuple):
    path: str
    segment_map: SmallMap
    segments: list[dict[str, Any]]


class _Measured(NamedTuple):
    areas: np.ndarray  # (S,) pixels
    classes: np.ndarray  # (S,) indices
    touching: np.ndarray  # (S,) bool
    unlabeled: int
    shown: ShownPhoto | None


@dataclass(frozen=True)
class SplitStatistics:
    """Sizes and numbers of a split; arrays over segments or classes are of the photos measured.

    Attributes:
        categories: of the data set, in the order of class indices.
        sizes: (N, 2) height and width of all annotated photos.
        photos_with: (K,) number of all photos with a class.
        num_measured: photos of which every pixel was read.
        areas: (S,) pixels of each segment.
        classes: (S,) class index of each segment.
        touching: bool (S,), a thing that has a neighbor of its class without a gap.
        unlabeled_share: of the pixels.
        shown: photos for the sheet.
    """

    categories: Sequence[Category]
    sizes: np.ndarray
    photos_with: np.ndarray
    num_measured: int
    areas: np.ndarray
    classes: np.ndarray
    touching: np.ndarray
    unlabeled_share: float
    shown: list[ShownPhoto]

    @property
    def segments_a_photo(self) -> float:
        return len(self.areas) / max(self.num_measured, 1)


def split_statistics(source: PanopticSource) -> SplitStatistics:
    """Measure a split that passed its check."""
    data = read_panoptic_json(source.json)
    categories = data["categories"]
    index = {category["id"]: position for position, category in enumerate(categories)}
    photos = {photo["id"]: photo for photo in data["images"]}
    annotations = [a for a in data["annotations"] if a["image_id"] in photos]
    photos_with = np.zeros(len(categories), np.int64)
    for annotation in annotations:
        photos_with[list({index[s["category_id"]] for s in annotation["segments_info"]})] += 1

    measured = _spread(annotations, MAX_MEASURED)
    shown = {id(annotation) for annotation in _spread(measured, MAX_SHOWN)}

    def measure(annotation: Annotation) -> _Measured:
        path = source.images / photos[annotation["image_id"]]["file_name"]
        photo = str(path) if id(annotation) in shown else None
        return _measure(source, annotation, photo, categories, index)

    with ThreadPoolExecutor(num_workers(photos.values())) as pool:
        parts = list(pool.map(measure, measured))
    areas = np.concatenate([np.zeros(0, np.int64), *(part.areas for part in parts)])
    unlabeled = sum(part.unlabeled for part in parts)
    return SplitStatistics(
        categories,
        np.array(
            [[photos[a["image_id"]][side] for side in ("height", "width")] for a in annotations],
            np.int64,
        ).reshape(-1, 2),
        photos_with,
        len(parts),
        areas,
        np.concatenate([np.zeros(0, np.int64), *(part.classes for part in parts)]),
        np.concatenate([np.zeros(0, bool), *(part.touching for part in parts)]),
        unlabeled / max(1, unlabeled + int(areas.sum())),
        [part.shown for part in parts if part.shown],
    )


def _measure(
    source: PanopticSource,
    annotation: Annotation,
    photo: str | None,
    categories: Sequence[Category],
    class_index: dict[int, int],
) -> _Measured:
    segments = annotation["segments_info"]
    ids = read_panoptic_png(source.pngs / annotation["file_name"], source.max_pixels)
    located = locate_segments(ids, segments)
    counts = count_pixels(located, len(segments) + 1)
    classes = np.array([class_index[s["category_id"]] for s in segments], np.int64)
    are_instances = np.array(
        [
            bool(categories[label]["isthing"]) and not segment.get("iscrowd", 0)
            for label, segment in zip(classes, segments, strict=True)
        ],
        bool,
    )
    touching = touching_segments(located, np.where(are_instances, classes, -1))
    shown = None
    if photo is not None:
        infos = [
            {
                "class": int(label),
                "text": "crowd" if segment.get("iscrowd", 0) else "",
                "area": int(area),
            }
            for label, segment, area in zip(classes, segments, counts, strict=False)
        ]
        shown = ShownPhoto(photo, small_map(ids, [segment["id"] for segment in segments]), infos)
    return _Measured(counts[:-1], classes, touching, int(counts[-1]), shown)


def touching_segments(located: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return which segments have a pixel beside one of another segment of their group.

    Args:
        located: (H, W) index of each pixel's segment in [0, S]; S is none.
        groups: (S,) of each segment, -1 for those that are not asked for.

    Returns:
        bool (S,).
    """
    groups = np.append(groups, -1)
    touching = np.zeros(len(groups), bool)
    for one, other in ((located[:, 1:], located[:, :-1]), (located[1:], located[:-1])):
        borders = one != other
        first, second = one[borders], other[borders]
        same = (groups[first] == groups[second]) & (groups[first] >= 0)
        touching[first[same]] = touching[second[same]] = True
    return touching[:-1]


def _spread(items: list, count: int) -> list:
    """Return ``count`` items at most, evenly spread."""
    if len(items) <= count:
        return items
    return [items[position] for position in np.linspace(0, len(items) - 1, count).astype(int)]
