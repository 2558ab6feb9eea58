"""Problems between the segments that a panoptic JSON lists and the pixels of the PNG."""

from collections.abc import Iterator

import numpy as np

from segcore.data.panoptic_format import (
    MAX_SEGMENT_ID,
    UNLABELED,
    Annotation,
    Segment,
    bounding_boxes,
    count_pixels,
    locate_segments,
)
from segcore.data.record_rules import sound_segments
from segcore.data.report import Problem

BOX_TOLERANCE = 1.0  # pixels
UNLISTED_SHOWN = 20  # ids of one PNG


def segment_problems(file: str, ids: np.ndarray, annotation: Annotation) -> Iterator[Problem]:
    """Compare segments with pixels.

    Args:
        file: path of the PNG, for the problems.
        ids: (H, W) int32, its segment ids.
    """
    segments = sound_segments(annotation)
    index = locate_segments(ids, segments)
    areas = count_pixels(index, len(segments) + 1)
    for segment, area in zip(segments, areas.tolist(), strict=False):
        if area == 0:
            yield Problem(
                "segment without pixels",
                file,
                f"segment {segment['id']} of the JSON has no pixel: remove it from "
                "'segments_info', or draw it",
            )
        elif segment.get("area", area) != area:
            yield Problem(
                "different areas",
                file,
                f"segment {segment['id']} has {area} pixels, but the JSON's area is "
                f"{segment['area']}; the pixels count",
                is_error=False,
            )
    yield from _box_problems(file, index, segments)
    unlisted = ids[index == len(segments)]
    listed = [segment.get("id") for segment in annotation["segments_info"]]
    yield from _unlisted_problems(file, unlisted[unlisted != UNLABELED], listed)


def _box_problems(file: str, index: np.ndarray, segments: list[Segment]) -> Iterator[Problem]:
    if not any("bbox" in segment for segment in segments):
        return
    for segment, box in zip(segments, bounding_boxes(index, len(segments)), strict=True):
        if box is None or "bbox" not in segment:
            continue
        if np.abs(np.subtract(segment["bbox"], box)).max() > BOX_TOLERANCE:
            yield Problem(
                "different boxes",
                file,
                f"the pixels of segment {segment['id']} have the box {list(box)} (x, y, width, "
                f"height), but the JSON's bbox is {segment['bbox']}; the pixels count",
                is_error=False,
            )


def _unlisted_problems(file: str, pixels: np.ndarray, listed: list) -> Iterator[Problem]:
    """Ids of ``pixels`` (n,) that no record of 'segments_info' has, a faulty one included."""
    ids, counts = np.unique(pixels, return_counts=True)
    listed = [i for i in listed if isinstance(i, int) and 0 <= i <= MAX_SEGMENT_ID]
    is_unknown = np.isin(ids, listed, invert=True)
    ids, counts = ids[is_unknown], counts[is_unknown]
    for identity, count in zip(ids[:UNLISTED_SHOWN].tolist(), counts.tolist(), strict=False):
        color = (identity % 256, identity // 256 % 256, identity // 65536)
        yield Problem(
            "PNG id without segment",
            file,
            f"{count} pixels have id {identity} (color {color}), which 'segments_info' does "
            "not list: list the segment, or paint them black (unlabeled)",
        )
    if len(ids) > UNLISTED_SHOWN:
        yield Problem(
            "PNG id without segment",
            file,
            f"{len(ids) - UNLISTED_SHOWN} more ids that 'segments_info' does not list: are the "
            "colors ids of segments?",
        )
