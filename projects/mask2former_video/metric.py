"""Average precision and recall of tracks (Yang et al., Video Instance Segmentation, 2019).

COCO's measures with tracks for objects: the overlap of two tracks is the sum over the frames of
the intersections of their masks, over that of the unions.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
MAX_RESULTS = (1, 10, 100)  # of a video and category
AREA_RANGES = {  # pixels, mean over the frames in which a track is seen; both ends are inside
    "all": (0, 1e10),
    "small": (0, 128**2),
    "medium": (128**2, 256**2),
    "large": (256**2, 1e10),
}
UNDEFINED = -1.0
# An overlap of 1 counts at a threshold of 1, whatever the rounding.
LARGEST_THRESHOLD = 1 - 1e-10

RunLengths = dict[str, Any]


@dataclass(frozen=True)
class Track:
    """A track of the ground truth, or of the results.

    Attributes:
        segmentations: COCO's compressed run lengths of each frame; None: not seen.
        score: of a result.
        area: mean area in pixels; None: as measured.
        is_crowd: ground truth that any number of results may match, and that counts for nothing.
    """

    video_id: int
    category_id: int
    segmentations: Sequence[RunLengths | None]
    score: float = 0.0
    area: float | None = None
    is_crowd: bool = False


def mean_area(areas: Sequence[float | None]) -> float:
    """Return the mean of the areas that are not 0 or None; 0 if there is none."""
    seen = [area for area in areas if area]
    return float(np.mean(seen)) if seen else 0.0


def track_ious(results: Sequence[Track], truth: Sequence[Track]) -> np.ndarray:
    """Return the overlaps (D, G) of tracks of one video: 0 where neither has a pixel."""
    intersections = np.zeros((len(results), len(truth)))
    unions = np.zeros_like(intersections)
    if not intersections.size:
        return intersections
    frames = zip(
        zip(*(track.segmentations for track in results), strict=True),
        zip(*(track.segmentations for track in truth), strict=True),
        strict=True,
    )
    for result_masks, true_masks in frames:
        areas = [np.array([_area(mask) for mask in masks]) for masks in (result_masks, true_masks)]
        total = areas[0][:, None] + areas[1]
        seen = [[i for i, mask in enumerate(m) if mask] for m in (result_masks, true_masks)]
        intersection = np.zeros_like(total)
        if all(seen):
            # pycocotools gives i / (total - i), and i is an integer.
            ious = mask_util.iou(
                [result_masks[i] for i in seen[0]],
                [true_masks[i] for i in seen[1]],
                [0] * len(seen[1]),
            )
            rows = np.ix_(*seen)
            intersection[rows] = np.rint(ious * total[rows] / (1 + ious))
        intersections += intersection
        unions += total - intersection
    return np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)


def _area(mask: RunLengths | None) -> float:
    return float(mask_util.area(mask)) if mask else 0.0


@dataclass(frozen=True)
class _Matches:
    """Results of one video and category by descending score, D of them; A ranges, T thresholds."""

    scores: np.ndarray  # (D,)
    matched: np.ndarray  # (A, T, D) bool
    ignored: np.ndarray  # (A, T, D) bool: neither right nor wrong
    num_truth: np.ndarray  # (A,) ground truth that counts


def match_tracks(results: Sequence[Track], truth: Sequence[Track]) -> _Matches:
    """Match the results of one video and category, the best scores first.

    A result takes the track of the largest overlap that is not taken: one that counts if there is
    any, else one that is ignored; of equal overlaps the later one. A crowd is never taken.
    """
    order = np.argsort([-track.score for track in results], kind="stable")[: max(MAX_RESULTS)]
    results = [results[i] for i in order]
    ious = track_ious(results, truth)
    ranges = np.array(list(AREA_RANGES.values()))
    is_crowd = np.array([track.is_crowd for track in truth], dtype=bool)
    outside = [_outside(tracks, ranges) for tracks in (results, truth)]
    ignored_truth = is_crowd | outside[1]  # (A, G)

    shape = (len(ranges), len(IOU_THRESHOLDS))
    matched = np.zeros((*shape, len(results)), dtype=bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((*shape, len(truth)), dtype=bool)
    thresholds = np.minimum(IOU_THRESHOLDS, LARGEST_THRESHOLD)[:, None]
    places = np.indices(shape)
    for number, overlaps in enumerate(ious if len(truth) else ()):
        free = (overlaps >= thresholds) & (~taken | is_crowd)
        counting = free & ~ignored_truth[:, None]
        free = np.where(counting.any(-1, keepdims=True), counting, free)
        # The last of the largest.
        choice = len(truth) - 1 - np.where(free, overlaps, -1)[..., ::-1].argmax(-1)
        found = free.any(-1)
        matched[..., number] = found
        ignored[..., number] = found & np.take_along_axis(ignored_truth, choice, 1)
        taken[(*places, choice)] |= found
    ignored |= ~matched & outside[0][:, None]
    scores = np.array([track.score for track in results])
    return _Matches(scores, matched, ignored, (~ignored_truth).sum(1))


def _outside(tracks: Sequence[Track], ranges: np.ndarray) -> np.ndarray:
    """Return whether the area of each track is outside of each range: (A, N) bool."""
    areas = [
        mean_area([_area(mask) for mask in track.segmentations])
        if track.area is None
        else track.area
        for track in tracks
    ]
    areas = np.array(areas, dtype=np.float64)
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


@dataclass(frozen=True)
class TrackMetric:
    """Precision (T, R, K, A, M) and recall (T, K, A, M); -1 where there is no ground truth.

    T IoU thresholds, R recall thresholds, K categories by id, A area ranges, M numbers of results.
    """

    precision: np.ndarray
    recall: np.ndarray

    def stats(self) -> dict[str, float]:
        """Return COCO's twelve numbers in [0, 1]; -1 where nothing can be measured."""
        ranges = {"": 0, "s": 1, "m": 2, "l": 3}
        precision, recall = self.precision[..., -1], self.recall
        stats = {
            "AP": _mean(precision[..., 0]),
            "AP50": _mean(precision[0, ..., 0]),
            "AP75": _mean(precision[5, ..., 0]),
        }
        stats |= {f"AP{name}": _mean(precision[..., i]) for name, i in ranges.items() if name}
        stats |= {f"AR{number}": _mean(recall[:, :, 0, i]) for i, number in enumerate(MAX_RESULTS)}
        stats |= {f"AR{name}": _mean(recall[:, :, i, -1]) for name, i in ranges.items() if name}
        return stats

    def category_precision(self) -> list[float]:
        """Return the AP of each category in [0, 1], or -1."""
        return [_mean(self.precision[:, :, k, 0, -1]) for k in range(self.precision.shape[2])]


def _mean(values: np.ndarray) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def measure_tracks(
    results: Sequence[Track], truth: Sequence[Track], categories: Sequence[int]
) -> TrackMetric:
    """Measure the tracks of many videos.

    Args:
        categories: their ids, in the order of the arrays.
    """
    shape = (len(categories), len(AREA_RANGES), len(MAX_RESULTS))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), *shape), UNDEFINED)
    recall = np.full((len(IOU_THRESHOLDS), *shape), UNDEFINED)
    grouped = _by_category(results), _by_category(truth)
    for index, category in enumerate(categories):
        of_results, of_truth = (groups.get(category, {}) for groups in grouped)
        videos = [
            match_tracks(of_results.get(video, []), of_truth.get(video, []))
            for video in sorted(of_results.keys() | of_truth.keys())
        ]
        if not videos:
            continue
        for area_range in range(len(AREA_RANGES)):
            num_truth = sum(video.num_truth[area_range] for video in videos)
            for column, most in enumerate(MAX_RESULTS) if num_truth else ():
                place = index, area_range, column
                precision[(..., *place)], recall[(..., *place)] = _accumulate(
                    videos, area_range, most, num_truth
                )
    return TrackMetric(precision, recall)


def _by_category(tracks: Sequence[Track]) -> Mapping[int, Mapping[int, list[Track]]]:
    groups: dict[int, dict[int, list[Track]]] = defaultdict(lambda: defaultdict(list))
    for track in tracks:
        groups[track.category_id][track.video_id].append(track)
    return groups


def _accumulate(
    videos: Sequence[_Matches], area_range: int, most: int, num_truth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision (T, R) and recall (T,) of the first ``most`` results of each video."""
    scores = np.concatenate([video.scores[:most] for video in videos])
    order = np.argsort(-scores, kind="stable")
    matched, ignored = (
        np.concatenate([getattr(v, key)[area_range, :, :most] for v in videos], axis=1)[:, order]
        for key in ("matched", "ignored")
    )
    right = (matched & ~ignored).cumsum(1).astype(np.float64)
    wrong = (~matched & ~ignored).cumsum(1).astype(np.float64)
    precision = np.zeros((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS)))
    if not len(scores):
        return precision, np.zeros(len(IOU_THRESHOLDS))
    recalls = right / num_truth
    precisions = right / (right + wrong + np.spacing(1))
    precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for row, (reached, values) in enumerate(zip(recalls, precisions, strict=True)):
        first = np.searchsorted(reached, RECALL_THRESHOLDS, side="left")
        inside = first < len(reached)
        precision[row, inside] = values[first[inside]]
    return precision, recalls[:, -1]
