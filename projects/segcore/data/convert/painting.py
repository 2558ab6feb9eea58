"""From the annotation of a photo to a panoptic map, in which every pixel has at most one segment.

Annotations are :class:`Regions`, which may overlap, or a :class:`LabelMap`, which cannot. Where
regions overlap, that of the higher z-order is on top; without z-orders, the smaller one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util
import scipy

from segcore.data.check_json import MAX_SEGMENTS_OF_A_PHOTO
from segcore.data.panoptic_format import Segment, bounding_boxes, count_pixels
from segcore.errors import DataError

NO_PIXEL = "regions without a pixel"
HIDDEN = "segments that others cover completely"


@dataclass(frozen=True)
class Region:
    """A mask and its class.

    Attributes:
        rle: compressed run lengths of pycocotools, of the size of the photo.
        is_crowd: things that are not told apart.
        z_order: the higher is on top.
    """

    rle: dict
    category_id: int
    is_crowd: bool = False
    z_order: float | None = None


@dataclass(frozen=True)
class Regions:
    """Regions that may overlap, and counts of what was left out and why."""

    regions: list[Region]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Label:
    """A value of a label map.

    Attributes:
        is_instance: whether the pixels are one thing, where the class is a thing.
    """

    category_id: int
    is_instance: bool = False


@dataclass(frozen=True)
class LabelMap:
    """A map (H, W) of integers from 0, not large; a value without a label is unlabeled."""

    values: np.ndarray
    labels: Mapping[int, Label]


@dataclass(frozen=True)
class PanopticMap:
    """The segments of a photo.

    Attributes:
        ids: (H, W) int32; 0 is unlabeled, 1, 2, ... are the ids of ``segments``.
        num_decided: pixels of more than one segment, which the order of painting decided.
        left_out: counts of what has no segment, by reason.
    """

    ids: np.ndarray
    segments: list[Segment]
    num_decided: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def paint(
    annotation: Regions | LabelMap,
    size: tuple[int, int],
    thing_ids: set[int],
    *,
    components: bool = False,
) -> PanopticMap:
    """Make the panoptic map of a photo.

    Args:
        size: (height, width) of the photo.
        thing_ids: category ids that are things. Another class is one segment.
        components: make each connected component (of 8 neighbors) of a thing class a segment where
            a label map does not tell things apart; otherwise they are a crowd.

    Raises:
        DataError: the annotation is of another size, or has too many segments.
    """
    if isinstance(annotation, Regions):
        return _paint_regions(annotation, size, thing_ids)
    return _paint_labels(annotation, size, thing_ids, components)


def _paint_regions(annotation: Regions, size: tuple[int, int], thing_ids: set[int]) -> PanopticMap:
    regions, left_out = annotation.regions, Counter(annotation.left_out)
    _require_few(len(regions))
    ids = np.zeros(size, dtype=np.int32)
    decided = np.zeros(size, dtype=bool)
    segments: list[Segment] = []
    stuff_ids: dict[int, int] = {}
    for region in sorted(regions, key=_painting_order(regions)):
        left, top, width, height = map(int, mask_util.toBbox(region.rle))
        if width * height == 0:
            left_out[NO_PIXEL] += 1
            continue
        is_thing = region.category_id in thing_ids
        id_ = len(segments) + 1 if is_thing else stuff_ids.get(region.category_id)
        if id_ is None:
            id_ = stuff_ids[region.category_id] = len(segments) + 1
        if id_ > len(segments):
            segments.append(_segment(id_, region.category_id, is_thing and region.is_crowd))
        box = np.s_[top : top + height, left : left + width]
        mask = mask_util.decode(region.rle)[box].astype(bool)
        below = ids[box]
        decided[box] |= mask & (below != 0) & (below != id_)
        below[mask] = id_
    ids, visible = _measured(ids, segments)
    left_out[HIDDEN] += len(segments) - len(visible)
    return PanopticMap(ids, visible, int(np.count_nonzero(decided)), +left_out)


def _painting_order(regions: list[Region]):
    """Return the key by which regions are sorted, the lowest first."""
    if any(region.z_order is not None for region in regions):
        return lambda region: region.z_order or 0
    return lambda region: -int(mask_util.area(region.rle))


def _paint_labels(
    annotation: LabelMap, size: tuple[int, int], thing_ids: set[int], components: bool
) -> PanopticMap:
    values = annotation.values
    if values.shape != size:
        raise DataError(
            f"its annotation is {values.shape[1]} x {values.shape[0]}, the photo "
            f"{size[1]} x {size[0]}"
        )
    counts = np.bincount(values.ravel())
    id_of_value = np.zeros(len(counts), dtype=np.int32)
    segments: list[Segment] = []
    shared: dict[int, int] = {}  # category -> id of its stuff or crowd
    in_components = []
    for value in np.flatnonzero(counts).tolist():
        label = annotation.labels.get(value)
        if label is None:
            continue
        is_thing = label.category_id in thing_ids
        if is_thing and components and not label.is_instance:
            in_components.append(value)
            continue
        is_shared = not (is_thing and label.is_instance)
        if is_shared and label.category_id in shared:
            id_of_value[value] = shared[label.category_id]
            continue
        id_of_value[value] = len(segments) + 1
        segments.append(_segment(len(segments) + 1, label.category_id, is_thing and is_shared))
        if is_shared:
            shared[label.category_id] = len(segments)
    ids = id_of_value[values]
    for value in in_components:
        parts, num_components = scipy.ndimage.label(values == value, np.ones((3, 3)))
        _require_few(len(segments) + num_components)
        ids = np.where(parts > 0, parts + len(segments), ids)
        category_id = annotation.labels[value].category_id
        first = len(segments) + 1
        segments += [_segment(first + i, category_id, False) for i in range(num_components)]
    _require_few(len(segments))
    ids, segments = _measured(ids.astype(np.int32), segments)
    return PanopticMap(ids, segments)


def _segment(id_: int, category_id: int, is_crowd: bool) -> Segment:
    return {"id": id_, "category_id": category_id, "iscrowd": int(is_crowd)}


def _measured(ids: np.ndarray, segments: list[Segment]) -> tuple[np.ndarray, list[Segment]]:
    """Return map and segments without those that have no pixel, with areas and boxes."""
    areas, boxes = count_pixels(ids, len(segments) + 1), bounding_boxes(ids, len(segments) + 1)
    has_pixels = areas > 0
    has_pixels[0] = False
    new_ids = (np.cumsum(has_pixels) * has_pixels).astype(np.int32)
    visible: list[Segment] = [
        {
            **segment,
            "id": int(new_ids[segment["id"]]),
            "area": int(areas[segment["id"]]),
            "bbox": list(boxes[segment["id"]]),
        }
        for segment in segments
        if has_pixels[segment["id"]]
    ]
    return new_ids[ids], visible


def _require_few(num_segments: int) -> None:
    if num_segments > MAX_SEGMENTS_OF_A_PHOTO:
        raise DataError(
            f"its annotation has {num_segments} segments, expected at most "
            f"{MAX_SEGMENTS_OF_A_PHOTO}"
        )
