"""A map of segments as small indices, worked on in strips of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

PIXELS_PER_STRIP = 1 << 20  # bounds what is made of a strip besides the results


@dataclass(frozen=True)
class Extent:
    """Area in pixels and box (x, y, width, height) of a segment; zeros if it has no pixel."""

    area: int
    box: tuple[int, int, int, int]


def strips(size: Sequence[int]) -> Iterator[slice]:
    """Split the rows of a map of ``size`` (H, W, ...)."""
    height, width = size[:2]
    rows = max(1, PIXELS_PER_STRIP // max(1, width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def index_map(ids: np.ndarray, segment_ids: Sequence[int]) -> np.ndarray:
    """Replace segment ids by their positions in a list.

    Args:
        ids: (H, W) integers.
        segment_ids: distinct integers from 0.

    Returns:
        (H, W) uint8, uint16 from 255 segments on: i + 1 where ``ids`` is ``segment_ids[i]``, 0
        where it is none of them.
    """
    dtype = np.uint8 if len(segment_ids) < 255 else np.uint16
    # Shifted by one: the ends of the table stand for ids below 0 and beyond the list.
    table = np.zeros(max(segment_ids, default=0) + 3, dtype)
    table[np.asarray(segment_ids, np.intp) + 1] = np.arange(1, len(segment_ids) + 1)
    indices = np.empty(ids.shape, dtype)
    for rows in strips(ids.shape):
        np.take(table, np.add(ids[rows], 1, dtype=np.intp), out=indices[rows], mode="clip")
    return indices


def extents(indices: np.ndarray, count: int) -> list[Extent]:
    """Areas and boxes of all segments of an :func:`index_map`, in one pass.

    Args:
        indices: (H, W) integers in [0, count].
        count: number of segments.
    """
    areas = np.zeros(count + 1, np.int64)
    for rows in strips(indices.shape):
        areas += np.bincount(indices[rows].ravel(), minlength=count + 1)
    boxes = find_objects(indices, max_label=count) if count else []
    return [Extent(int(area), _box(found)) for area, found in zip(areas[1:], boxes, strict=True)]


def _box(found: tuple[slice, slice] | None) -> tuple[int, int, int, int]:
    if found is None:
        return 0, 0, 0, 0
    rows, columns = found
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
