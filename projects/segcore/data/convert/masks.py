"""Polygons and run lengths of strangers' files as run lengths of pycocotools, within bounds.

pycocotools trusts its input: a coordinate far away or run lengths that do not fill the mask would
exhaust the memory, or read beyond it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from segcore.errors import DataError
from segcore.text import short_repr

MAX_OUTLINE = 10_000_000  # pixels that the outline of a region may pass
MIN_POINTS = 3
TOO_FEW_POINTS = f"polygons of fewer than {MIN_POINTS} points"
_MAX_DIGITS = 7  # of 5 bits, in a compressed run length


def has_few_points(polygon: Any) -> bool:
    """Return whether a list x, y, ... has no three points, as a click too many leaves it."""
    return isinstance(polygon, list) and len(polygon) % 2 == 0 and len(polygon) < 2 * MIN_POINTS


def polygons_to_rle(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict:
    """Return the union of polygons, which pycocotools fills by the even-odd rule.

    Args:
        polygons: lists of x, y, x, y, ... in pixels.
        size: (height, width).

    Raises:
        DataError: a polygon has no three points, or is far outside of the photo.
    """
    height, width = size
    for polygon in polygons:
        points = _points(polygon)
        outside = np.abs(points - (width / 2, height / 2)) > (1.5 * width, 1.5 * height)
        if outside.any():
            x, y = points[outside.any(axis=1)][0].tolist()
            raise DataError(
                f"expected points of a polygon on the photo of {width} x {height} pixels, got "
                f"({x:g}, {y:g})"
            )
        if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > MAX_OUTLINE:
            raise DataError(f"has an outline of more than {MAX_OUTLINE} pixels")
    return mask_util.merge(mask_util.frPyObjects([list(polygon) for polygon in polygons], *size))


def _points(polygon: Any) -> np.ndarray:
    """Return the points of a polygon, (n, 2) float64."""
    is_list = isinstance(polygon, Sequence) and len(polygon) % 2 == 0
    if not is_list or len(polygon) < 2 * MIN_POINTS or not all(map(_is_finite, polygon)):
        raise DataError(
            f"expected a polygon as a list x, y, x, y, ... of at least {MIN_POINTS} points, got "
            f"{short_repr(polygon)}"
        )
    return np.array(polygon, dtype=np.float64).reshape(-1, 2)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e9 and math.isfinite(value)


def run_lengths_to_rle(segmentation: dict, size: tuple[int, int]) -> dict:
    """Return COCO's run lengths, compressed (text) or not (a list), as pycocotools takes them.

    Raises:
        DataError: they are not of this size, or do not fill it.
    """
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise DataError(
            f"expected run lengths of size {list(size)}, that of the photo, got "
            f"{short_repr(segmentation.get('size'))}"
        )
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise DataError(f"expected run lengths as a text or integers, got {short_repr(counts)}")
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise DataError(
            f"expected run lengths of {size[0] * size[1]} pixels in all, got {runs.sum()}"
        )
    return mask_util.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)


def decode_counts(text: str) -> np.ndarray:
    """Return the run lengths of COCO's compressed form: (n,) int64.

    A number is written in digits of 5 bits, the lowest first, each as the character 48 + digit, and
    32 more where another digit follows; bit 4 of the last one is the sign. From the fourth number
    on it is the difference to the number before the last (pycocotools, ``rleToString``).
    """
    codes = np.array([ord(character) for character in text], dtype=np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise DataError(f"expected compressed run lengths, got {short_repr(text)}")
    is_last = codes & 32 == 0
    first = np.flatnonzero(np.r_[True, is_last[:-1]])
    position = np.arange(len(codes)) - np.repeat(first, np.diff(np.r_[first, len(codes)]))
    if position.max() >= _MAX_DIGITS:
        raise DataError(f"expected compressed run lengths, got {short_repr(text)}")
    numbers = np.add.reduceat((codes & 31) << 5 * position, first)
    negative = codes[is_last] & 16 != 0
    numbers[negative] -= 1 << 5 * (position[is_last][negative] + 1)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
