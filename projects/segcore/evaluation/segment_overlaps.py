"""Overlaps of the segments of two maps: their joint histogram, without zeros."""

from typing import NamedTuple

import numpy as np

MAX_SEGMENT_ID = 256**3 - 1  # ids are colors of 24 bits
_ID_BITS = 24


class Overlaps(NamedTuple):
    """Pairs of ids that share pixels, ascending by (truth, prediction).

    Attributes:
        truth, prediction: int64 (n,), ids.
        areas: int64 (n,), number of pixels that have both.
    """

    truth: np.ndarray
    prediction: np.ndarray
    areas: np.ndarray


def segment_overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Count the pixels of each pair of ids.

    Segments are few and connected, so that only the runs of equal pairs along rows are sorted.

    Args:
        truth, prediction: integers (H, W) in [0, 2^24).

    Raises:
        ValueError: the maps have another shape or type, or ids outside of the range.
    """
    for name, ids in (("truth", truth), ("prediction", prediction)):
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name}: expected integers (H, W), got {ids.dtype} {ids.shape}")
    if truth.shape != prediction.shape:
        raise ValueError(f"prediction: expected shape {truth.shape}, got {prediction.shape}")
    if not truth.size:
        return Overlaps(*np.zeros((3, 0), np.int64))
    truth, prediction = truth.ravel(), prediction.ravel()
    changes = truth[1:] != truth[:-1]
    changes |= prediction[1:] != prediction[:-1]
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    lengths = np.diff(starts, append=truth.size)

    truth, prediction = truth[starts].astype(np.int64), prediction[starts].astype(np.int64)
    for name, ids in (("truth", truth), ("prediction", prediction)):
        if ids.min() < 0 or ids.max() > MAX_SEGMENT_ID:
            raise ValueError(
                f"{name}: expected ids in [0, {MAX_SEGMENT_ID}], got {ids.min()} to {ids.max()}"
            )
    pairs = truth << _ID_BITS | prediction
    order = np.argsort(pairs)
    pairs = pairs[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    pairs = pairs[firsts]
    areas = np.add.reduceat(lengths[order], firsts)
    return Overlaps(pairs >> _ID_BITS, pairs & MAX_SEGMENT_ID, areas)
