"""A map of segments as small indices, worked on in strips of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from segcore.opencv import cv2

PIXELS_PER_STRIP = 1 << 20  # bounds the temporary memory of a strip


@dataclass(frozen=True)
class Extent:
    """Area in pixels and box (x, y, width, height) of a segment; zeros if it has no pixel."""

    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class SegmentMap:
    """Segments of an image by their positions in a list.

    Attributes:
        indices: (H, W) integers, i + 1 at the pixels of segment i, 0 elsewhere.
        count: number of segments.
    """

    indices: np.ndarray
    count: int

    @classmethod
    def from_ids(cls, ids: np.ndarray, segment_ids: Sequence[int]) -> "SegmentMap":
        """Replace segment ids by their positions in a list.

        Args:
            ids: (H, W) integers; those not in the list become 0.
            segment_ids: distinct integers from 0.

        Returns:
            Map of ``indices`` uint8, or uint16 from 255 segments on.
        """
        dtype = np.uint8 if len(segment_ids) < 255 else np.uint16
        # Shifted by one: the ends of the table stand for ids below 0 and beyond the list.
        table = np.zeros(max(segment_ids, default=0) + 3, dtype)
        table[np.asarray(segment_ids, np.intp) + 1] = np.arange(1, len(segment_ids) + 1)
        indices = np.empty(ids.shape, dtype)
        for rows in strips(ids.shape):
            np.take(table, np.add(ids[rows], 1, dtype=np.intp), out=indices[rows], mode="clip")
        return cls(indices, len(segment_ids))

    @cached_property
    def extents(self) -> list[Extent]:
        """Areas and boxes of all segments."""
        areas = np.zeros(self.count + 1, np.int64)
        for rows in strips(self.indices.shape):
            areas += np.bincount(self.indices[rows].ravel(), minlength=self.count + 1)
        windows = (
            scipy.ndimage.find_objects(self.indices, max_label=self.count) if self.count else []
        )
        return [
            Extent(int(area), _box(window)) for area, window in zip(areas[1:], windows, strict=True)
        ]

    def resized(self, width: int, height: int) -> "SegmentMap":
        """Return the map at another size, by nearest neighbors."""
        size = (width, height)
        indices = cv2.resize(self.indices, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return SegmentMap(indices, self.count)


def strips(size: Sequence[int]) -> Iterator[slice]:
    """Split the rows of a map of ``size`` (H, W, ...)."""
    height, width = size[:2]
    rows = max(1, PIXELS_PER_STRIP // max(1, width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _box(window: tuple[slice, slice] | None) -> tuple[int, int, int, int]:
    if window is None:
        return 0, 0, 0, 0
    rows, columns = window
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
