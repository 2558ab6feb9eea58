"""Matching of the segments of an image as panoptic quality defines it, and what went wrong.

"Panoptic Segmentation", section 4.1 (Kirillov et al., CVPR 2019). Matches, void and crowd regions
are counted exactly as by panopticapi.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segcore.evaluation.segment_overlaps import Overlaps, segment_overlaps

VOID = 0
MATCHED, MISSED, INVENTED = range(3)  # true positive, false negative, false positive
# Why a segment costs panoptic quality, in the order in which an unmatched one is asked.
CAUSES = ("wrong class", "merged", "split", "outline", "not found")
# Overlap (IoU) with a segment of its class from which on an unmatched one is a bad outline.
MIN_OUTLINE_IOU = 0.1

_Infos = Mapping[int, Mapping[str, Any]]  # segments by id

OUTCOME = np.dtype(
    [
        ("result", np.int8),  # MATCHED, MISSED or INVENTED
        ("category", np.int32),  # index of the class, -1 for one that is not evaluated
        ("cause", np.int8),  # index into CAUSES
        ("other", np.int32),  # of a missed segment of wrong class: index of the predicted one
        ("segment", np.int64),  # id in the truth, of an invented one in the prediction
        ("partner", np.int64),  # of a match: id of the predicted segment, else -1
        ("area", np.float64),  # of this segment, in pixels
        ("iou", np.float64),  # of a match
    ]
)


class Segments(NamedTuple):
    """The n segments of a map.

    Attributes:
        ids: int64 (n,).
        categories: int32 (n,), indices of classes.
        areas: float64 (n,), in pixels.
        crowd: bool (n,).
    """

    ids: np.ndarray
    categories: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


class Shared(NamedTuple):
    """Overlaps by segment.

    Attributes:
        truth, prediction: int64 (n,), indices of the segments, -1 for none.
        void: bool (n,), void of the truth.
        areas: int64 (n,), in pixels.
    """

    truth: np.ndarray
    prediction: np.ndarray
    void: np.ndarray
    areas: np.ndarray


class Pairs(NamedTuple):
    """Pairs of a truth segment that is no crowd and a predicted one that overlap.

    Attributes:
        truth, prediction: int64 (n,), indices of the segments.
        same: bool (n,), both have one class.
        areas: (n,), of the intersection, in pixels.
        iou: float64 (n,), void pixels left out.
    """

    truth: np.ndarray
    prediction: np.ndarray
    same: np.ndarray
    areas: np.ndarray
    iou: np.ndarray


def match_segments(
    truth: np.ndarray,
    truth_segments: Sequence[Mapping[str, Any]],
    prediction: np.ndarray,
    prediction_segments: Sequence[Mapping[str, Any]],
    class_indices: Mapping[int, int],
    *,
    boundary: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Compare the segments of an image.

    Args:
        truth, prediction: integers (H, W), the segment id of each pixel, 0 for void.
        truth_segments: dicts with "id", "category_id", and, where they differ from 0 and from the
            number of pixels, "iscrowd" and "area".
        prediction_segments: dicts with "id" and "category_id".
        class_indices: category id -> index of the class.
        boundary: map -> the map with 0 inside of the segments; the IoU of a pair is then the
            smaller one of masks and boundaries (Boundary IoU, Cheng et al., CVPR 2021, eq. 4). Void
            is taken out of the prediction before, as it is for masks.

    Returns:
        Structured array of :data:`OUTCOME`: matched segments in ascending order of ids, then missed
        and invented ones.

    Raises:
        ValueError: maps do not fit, or segments and ids on the map of the prediction differ.
    """
    truth_infos, infos = (
        {info["id"]: info for info in segments}
        for segments in (truth_segments, prediction_segments)
    )
    overlaps = segment_overlaps(truth, prediction)
    shared = _by_segment(overlaps, truth_infos, infos)
    _require_declared(overlaps, shared, infos)
    expected = _truth_segments(shared, truth_infos, class_indices)
    found = _predicted_segments(shared, infos, class_indices)
    pairs, void = _pairs(shared, expected, found)
    if boundary is not None:
        valid = np.where(truth == VOID, VOID, prediction)
        of_boundaries = segment_overlaps(boundary(truth), boundary(valid))
        shared_boundaries = _by_segment(of_boundaries, truth_infos, infos)
        pairs = _with_boundaries(pairs, shared_boundaries, (len(truth_infos), len(infos)))

    hits = pairs.same & (pairs.iou > 0.5)
    matched = np.bincount(pairs.truth[hits], minlength=len(expected.ids)) > 0
    matched_predictions = np.bincount(pairs.prediction[hits], minlength=len(found.ids)) > 0
    ignored = _ignored(shared, expected, found, void)
    missed = np.flatnonzero(~matched & ~expected.crowd)
    invented = np.flatnonzero(~matched_predictions & ~ignored)
    causes, other, causes_of_predictions = _causes(pairs, expected, found)

    outcomes = np.zeros(np.count_nonzero(hits) + len(missed) + len(invented), OUTCOME)
    outcomes["other"] = outcomes["partner"] = -1
    matches, misses, inventions = np.split(
        outcomes, np.cumsum([np.count_nonzero(hits), len(missed)])
    )
    _fill(matches, MATCHED, expected, pairs.truth[hits], CAUSES.index("outline"))
    matches["iou"] = pairs.iou[hits]
    matches["partner"] = found.ids[pairs.prediction[hits]]
    _fill(misses, MISSED, expected, missed, causes[missed])
    misses["other"] = other[missed]
    _fill(inventions, INVENTED, found, invented, causes_of_predictions[invented])
    return outcomes


def _fill(
    outcomes: np.ndarray,
    result: int,
    segments: Segments,
    indices: np.ndarray,
    causes: np.ndarray | int,
) -> None:
    outcomes["result"] = result
    outcomes["category"] = segments.categories[indices]
    outcomes["cause"] = causes
    outcomes["segment"] = segments.ids[indices]
    outcomes["area"] = segments.areas[indices]


def _by_segment(overlaps: Overlaps, truth_infos: _Infos, infos: _Infos) -> Shared:
    truth, prediction = (
        _indices(_ids(by_id), ids)
        for by_id, ids in ((truth_infos, overlaps.truth), (infos, overlaps.prediction))
    )
    return Shared(truth, prediction, overlaps.truth == VOID, overlaps.areas)


def _require_declared(overlaps: Overlaps, shared: Shared, infos: _Infos) -> None:
    undeclared = overlaps.prediction[(shared.prediction < 0) & (overlaps.prediction != VOID)]
    if len(undeclared):
        raise ValueError(
            f"segments of the prediction: expected one with id {undeclared[0]}, which is on the "
            f"map, got {sorted(infos)[:8]}"
        )


def _truth_segments(shared: Shared, infos: _Infos, class_indices: Mapping[int, int]) -> Segments:
    measured = _sums(shared.areas, shared.truth, len(infos))
    areas = [info.get("area", area) for info, area in zip(infos.values(), measured, strict=True)]
    return Segments(
        _ids(infos),
        _categories(infos, class_indices),
        np.array(areas, np.float64),
        np.array([info.get("iscrowd", 0) == 1 for info in infos.values()], bool),
    )


def _predicted_segments(
    shared: Shared, infos: _Infos, class_indices: Mapping[int, int]
) -> Segments:
    categories = _categories(infos, class_indices)
    if (categories < 0).any():
        info = list(infos.values())[int(np.argmin(categories))]
        raise ValueError(
            f"segment {info['id']} of the prediction: expected a category_id of the data set, got "
            f"{info['category_id']}"
        )
    ids, areas = _ids(infos), _sums(shared.areas, shared.prediction, len(infos))
    if (areas == 0).any():
        raise ValueError(
            f"segment {ids[np.argmin(areas)]} of the prediction: expected pixels on the map, got "
            "none"
        )
    return Segments(ids, categories, areas, np.zeros(len(ids), bool))


def _pairs(shared: Shared, expected: Segments, found: Segments) -> tuple[Pairs, np.ndarray]:
    """Return the overlapping pairs, and the void pixels of each predicted segment."""
    void = _sums(shared.areas[shared.void], shared.prediction[shared.void], len(found.ids))
    valid = (shared.truth >= 0) & (shared.prediction >= 0)
    valid[valid] = ~expected.crowd[shared.truth[valid]]
    truth, prediction, areas = shared.truth[valid], shared.prediction[valid], shared.areas[valid]
    same = expected.categories[truth] == found.categories[prediction]
    union = found.areas[prediction] + expected.areas[truth] - areas - void[prediction]
    # Areas of a wrong annotation can leave no union.
    with np.errstate(divide="ignore", invalid="ignore"):
        return Pairs(truth, prediction, same, areas, areas / union), void


def _with_boundaries(pairs: Pairs, shared: Shared, size: tuple[int, int]) -> Pairs:
    """Replace the IoU by that of boundaries where it is smaller.

    Args:
        shared: by the boundaries.
        size: numbers of segments of truth and prediction.
    """
    truth_areas, areas = (
        _sums(shared.areas, indices, count)
        for indices, count in zip((shared.truth, shared.prediction), size, strict=True)
    )
    table = np.zeros(size)
    valid = (shared.truth >= 0) & (shared.prediction >= 0)
    table[shared.truth[valid], shared.prediction[valid]] = shared.areas[valid]
    intersection = table[pairs.truth, pairs.prediction]
    union = truth_areas[pairs.truth] + areas[pairs.prediction] - intersection
    return pairs._replace(iou=np.minimum(pairs.iou, intersection / np.maximum(union, 1)))


def _ignored(shared: Shared, expected: Segments, found: Segments, void: np.ndarray) -> np.ndarray:
    """Predicted segments of which more than half is void or a crowd of their class: bool (n,).

    Of several crowd regions of a class the last one counts.
    """
    crowds = np.flatnonzero(expected.crowd)
    last_crowd = dict(zip(expected.categories[crowds].tolist(), crowds.tolist(), strict=True))
    crowd = np.array([last_crowd.get(c, -1) for c in found.categories.tolist()], np.int64)
    valid = (shared.truth >= 0) & (shared.prediction >= 0)
    valid[valid] = crowd[shared.prediction[valid]] == shared.truth[valid]
    outside = void + _sums(shared.areas[valid], shared.prediction[valid], len(found.ids))
    return outside / found.areas > 0.5


def _causes(
    pairs: Pairs, expected: Segments, found: Segments
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Causes of truth segments, their wrong classes (-1: none), and causes of predicted ones.

    They hold for segments without match. See docs/evaluation.md for the definitions.
    """
    n, m = len(expected.ids), len(found.ids)
    confused = ~pairs.same & (pairs.iou > 0.5)
    other = np.full(n, -1, np.int32)
    other[pairs.truth[confused]] = found.categories[pairs.prediction[confused]]
    # A truth segment lies in a predicted one with more than half of its pixels, or vice versa.
    truth_inside = pairs.same & (pairs.areas > 0.5 * expected.areas[pairs.truth])
    inside_truth = pairs.same & (pairs.areas > 0.5 * found.areas[pairs.prediction])
    merging = np.bincount(pairs.prediction[truth_inside], minlength=m) > 1
    dividing = np.bincount(pairs.truth[inside_truth], minlength=n) > 1
    merged_pairs = truth_inside & merging[pairs.prediction]
    split_pairs = inside_truth & dividing[pairs.truth]
    near = pairs.same & (pairs.iou > MIN_OUTLINE_IOU)

    by_cause = (confused, merged_pairs, split_pairs, near)
    causes, causes_of_predictions = (
        np.full(count, CAUSES.index("not found"), np.int8) for count in (n, m)
    )
    for cause in reversed(range(len(by_cause))):  # the first one stands
        causes[pairs.truth[by_cause[cause]]] = cause
        causes_of_predictions[pairs.prediction[by_cause[cause]]] = cause
    return causes, other, causes_of_predictions


def _ids(infos: _Infos) -> np.ndarray:
    return np.fromiter(infos, np.int64, len(infos))


def _categories(infos: _Infos, class_indices: Mapping[int, int]) -> np.ndarray:
    categories = (class_indices.get(info["category_id"], -1) for info in infos.values())
    return np.fromiter(categories, np.int32, len(infos))


def _indices(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the index in ``ids`` of each value, -1 where it is none of them: int64."""
    if not len(ids):
        return np.full(len(values), -1)
    order = np.argsort(ids)
    positions = np.searchsorted(ids, values, sorter=order)
    nearest = order[np.minimum(positions, len(ids) - 1)]
    return np.where(ids[nearest] == values, nearest, -1)


def _sums(values: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Return the sum of the values of each index in [0, ``count``), those of -1 left out."""
    valid = indices >= 0
    return np.bincount(indices[valid], values[valid], minlength=count)
