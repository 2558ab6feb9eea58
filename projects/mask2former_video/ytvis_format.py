"""Annotations of videos in the format of YouTubeVIS: one record a track, one item a frame.

{"videos": [{"id", "height", "width", "file_names"}], "categories": [{"id", "name"}],
"annotations": [{"id", "video_id", "category_id", "iscrowd", "segmentations", "bboxes", "areas"}]},
where the three lists of an annotation have an item for each frame, null where the track is not
seen. A file of test videos has no annotations.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from segcore.data.category_rules import MAX_CATEGORIES, color_fault, name_fault
from segcore.data.convert.masks import MIN_POINTS, polygons_to_rle, run_lengths_to_rle
from segcore.data.json_file import read_json
from segcore.data.record_rules import (
    category_id_rule,
    file_name_fault,
    flag_rule,
    integer_rule,
    record_faults,
    side_rule,
)
from segcore.data.report import Problem
from segcore.errors import DataError
from segcore.text import printable, short_repr

Record = dict[str, Any]
MAX_AREA = 10**12
LISTS = ("videos", "categories", "annotations")


def _items_rule(fault: Callable[[object], str | None], *, least: int = 0):
    def rule(value: object) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return f"expected a list of at least {least} items, got {short_repr(value)}"
        return next(filter(None, map(fault, value)), None)

    return rule


def _anything(value: object) -> None:
    return None


def _area_fault(value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and 0 <= value <= MAX_AREA):
        return None
    return f"expected a number of pixels or null, got {short_repr(value)}"


VIDEO_RULES = {
    "id": integer_rule(0, 2**63 - 1),
    "height": side_rule,
    "width": side_rule,
    "file_names": _items_rule(file_name_fault, least=1),
}
CATEGORY_RULES = {"id": category_id_rule, "name": name_fault}
OPTIONAL_CATEGORY_RULES = {"color": color_fault}
ANNOTATION_RULES = {
    "id": integer_rule(1, 2**63 - 1),  # 0 would mean no match in the official evaluation
    "video_id": integer_rule(0, 2**63 - 1),
    "category_id": category_id_rule,
    "segmentations": _items_rule(_anything),
    "bboxes": _items_rule(_anything),
}
OPTIONAL_ANNOTATION_RULES = {"iscrowd": flag_rule, "areas": _items_rule(_area_fault)}


def read_ytvis_json(path: str | Path) -> dict[str, list[Record]]:
    """Return the videos, the categories and the annotations (none: an empty list), sorted by id.

    Segmentations are as in the file, see :func:`frame_segmentation`.

    Raises:
        DataError: the file cannot be read, or is not of this format; names the first faults.
    """
    data = _lists(path, read_json(path))
    problems = list(json_problems(path, data))
    if problems:
        more = f"\n... and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    by_id = {key: sorted(data[key], key=lambda r: r["id"]) for key in ("videos", "categories")}
    return {**by_id, "annotations": data["annotations"]}


def _lists(path: str | Path, data: Any) -> dict[str, list]:
    lists = {key: data.get(key) or [] for key in LISTS} if isinstance(data, dict) else {}
    if not (lists.get("videos") and lists.get("categories")) or not all(
        isinstance(records, list) for records in lists.values()
    ):
        raise DataError(
            f"{printable(path)}: expected annotations of videos in the format of YouTubeVIS, an "
            "object with the lists 'videos' and 'categories', and 'annotations' except for tests"
        )
    return lists


def json_problems(path: str | Path, data: dict[str, list]) -> Iterator[Problem]:
    """Yield what is wrong with the records of a file; not with segmentations and other files."""
    kinds = {
        "videos": ("video", VIDEO_RULES, {}),
        "categories": ("category", CATEGORY_RULES, OPTIONAL_CATEGORY_RULES),
        "annotations": ("annotation", ANNOTATION_RULES, OPTIONAL_ANNOTATION_RULES),
    }
    sound: dict[str, list[Record]] = {}
    for key, (noun, rules, optional) in kinds.items():
        sound[key] = []
        for number, record in enumerate(data[key]):
            if not isinstance(record, dict):
                faults = [f"expected an object, got {short_repr(record)}"]
            else:
                faults = record_faults(record, rules, optional)
            for fault in faults:
                yield Problem(f"faulty {noun}", str(path), f"{noun} number {number}: {fault}")
            if not faults:
                sound[key].append(record)
        for id_, count in Counter(record["id"] for record in sound[key]).items():
            if count > 1:
                message = f"{count} {noun} records have id {id_}: give each another"
                yield Problem(f"repeated {noun} id", str(path), message)
    if len(data["categories"]) > MAX_CATEGORIES:
        count = len(data["categories"])
        message = f"'categories' lists {count} classes, at most {MAX_CATEGORIES} are possible"
        yield Problem("too many categories", str(path), message)
    yield from _link_problems(path, sound)


def _link_problems(path: str | Path, data: dict[str, list[Record]]) -> Iterator[Problem]:
    """Yield annotations of unknown videos or categories, and with other numbers of frames."""
    lengths = {video["id"]: len(video["file_names"]) for video in data["videos"]}
    categories = {category["id"] for category in data["categories"]}
    for annotation in data["annotations"]:
        name = f"annotation {annotation['id']}"
        if annotation["category_id"] not in categories:
            message = f"{name}: there is no category with id {annotation['category_id']}"
            yield Problem("unknown category", str(path), message)
        if annotation["video_id"] not in lengths:
            message = f"{name}: there is no video with id {annotation['video_id']}"
            yield Problem("unknown video", str(path), message)
            continue
        expected = lengths[annotation["video_id"]]
        for key in ("segmentations", "bboxes", "areas"):
            if len(annotation.get(key) or [None] * expected) != expected:
                message = (
                    f"{name}: {key!r}: expected {expected} items, one for each frame of video "
                    f"{annotation['video_id']}, got {len(annotation[key])}"
                )
                yield Problem("number of frames", str(path), message)


def frame_segmentation(segmentation: Any, size: tuple[int, int]) -> list | dict | None:
    """Return polygons that have three points or more, or compressed run lengths; None if neither.

    Args:
        segmentation: a list of polygons, run lengths as integers or text, or None.
        size: (height, width) of the video.

    Raises:
        DataError: a polygon is far outside, or run lengths are not of this size.
    """
    if isinstance(segmentation, dict):
        return run_lengths_to_rle(segmentation, size)
    polygons = [
        polygon
        for polygon in _list_of_lists(segmentation)
        if len(polygon) >= 2 * MIN_POINTS and len(polygon) % 2 == 0
    ]
    if polygons:
        polygons_to_rle(polygons, size)  # which checks them
    return polygons or None


def _list_of_lists(segmentation: Any) -> Iterable[list]:
    if segmentation is None:
        return []
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        raise DataError(
            "expected a segmentation as a list of polygons, run lengths or null, got "
            f"{short_repr(segmentation)}"
        )
    return segmentation


def segmentation_to_rle(segmentation: list | dict, size: tuple[int, int]) -> dict:
    """Return what :func:`frame_segmentation` returns as run lengths."""
    if isinstance(segmentation, dict):
        return segmentation
    return polygons_to_rle(segmentation, size)
