"""Photos of an evaluation that its report shows, chosen while it runs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segcore.evaluation.segment_matching import CAUSES, INVENTED, MATCHED
from segcore.report.pictures import SmallMap, small_map

NUM_WORST, NUM_BEST = 150, 50
# Worst photos of each class, fewer where there are many classes.
NUM_OF_CLASS, NUM_OF_ALL_CLASSES = 5, 200

MATCHED_TEXT, IGNORED_TEXT = "matched", "not counted: a crowd, or void below"
# Causes, see docs/evaluation.md, as words behind "missed: " and "invented: ".
MISSED_TEXTS = dict(
    zip(CAUSES, ("other class", "merged with others", "split", "bad outline", ""), strict=True)
)
INVENTED_TEXTS = dict(
    zip(CAUSES, ("other class", "merges several", "part of one", "bad outline", ""), strict=True)
)


@dataclass(frozen=True)
class ComparedPhoto:
    """A photo, its truth and its prediction.

    Attributes:
        image_id: of the data set.
        file_name: path of the photo.
        quality: mean PQ of the classes on the photo, in [0, 1].
        class_quality: index of a class -> its PQ on this photo.
        truth, prediction: their segments at thumbnail size.
        truth_segments, predicted_segments: one dict a segment: "class" (index), "state" ("matched",
            "missed", "invented" or "ignored"), "text", and where they are known "iou", "score" and
            "partner", the position of the matched segment in the other list.
    """

    image_id: Any
    file_name: str
    quality: float
    class_quality: Mapping[int, float]
    truth: SmallMap
    prediction: SmallMap
    truth_segments: list[dict[str, Any]]
    predicted_segments: list[dict[str, Any]]


@dataclass
class PhotoChoice:
    """The worst and best photos so far, and the worst of each class; memory is bounded.

    Args:
        class_indices: category id -> index of the class.
    """

    class_indices: Mapping[int, int]
    photos: list[ComparedPhoto] = field(default_factory=list)

    def add(
        self,
        image_id: Any,
        file_name: str,
        prediction: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
        truth: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
        outcomes: np.ndarray,
    ) -> None:
        """Consider a photo.

        Args:
            prediction, truth: ids (H, W) and segments, dicts with "id" and "category_id", and of a
                prediction perhaps "score".
            outcomes: of :func:`segcore.evaluation.segment_matching.match_segments`.
        """
        class_quality = _class_quality(outcomes)
        if not class_quality:
            return
        (ids, segments), (truth_ids, truth_segments) = prediction, truth
        self.photos.append(
            ComparedPhoto(
                image_id,
                file_name,
                sum(class_quality.values()) / len(class_quality),
                class_quality,
                small_map(truth_ids, [segment["id"] for segment in truth_segments]),
                small_map(ids, [segment["id"] for segment in segments]),
                *self._described(truth_segments, segments, outcomes),
            )
        )
        num_classes = len(self.class_indices)
        if len(self.photos) > 2 * (NUM_WORST + NUM_BEST + NUM_OF_ALL_CLASSES):
            self.photos = chosen_photos(self.photos, num_classes)

    def _described(
        self,
        truth: Sequence[Mapping[str, Any]],
        predicted: Sequence[Mapping[str, Any]],
        outcomes: np.ndarray,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Describe the segments of the truth, then those of the prediction."""
        indices = {info["id"]: position for position, info in enumerate(predicted)}
        truth_indices = {info["id"]: position for position, info in enumerate(truth)}
        described, described_predicted = (
            [
                {
                    "class": self.class_indices.get(info["category_id"], -1),
                    "state": "ignored",
                    "text": IGNORED_TEXT,
                }
                for info in infos
            ]
            for infos in (truth, predicted)
        )
        for outcome in outcomes:
            segment, cause = int(outcome["segment"]), CAUSES[outcome["cause"]]
            if outcome["result"] == MATCHED:
                position, partner = truth_indices[segment], indices[int(outcome["partner"])]
                common = {
                    "state": "matched",
                    "text": MATCHED_TEXT,
                    "iou": round(float(outcome["iou"]), 3),
                }
                described[position] |= {**common, "partner": partner}
                described_predicted[partner] |= {**common, "partner": position}
            elif outcome["result"] == INVENTED:
                text = _with_reason("invented", INVENTED_TEXTS[cause])
                described_predicted[indices[segment]] |= {"state": "invented", "text": text}
            else:
                text = _with_reason("missed", MISSED_TEXTS[cause])
                found = {"found": int(outcome["other"])} if outcome["other"] >= 0 else {}
                described[truth_indices[segment]] |= {"state": "missed", "text": text, **found}
        for info, description in zip(predicted, described_predicted, strict=True):
            if info.get("score") is not None and math.isfinite(info["score"]):
                description["score"] = round(float(info["score"]), 3)
        return described, described_predicted


def chosen_photos(photos: Iterable[ComparedPhoto], num_classes: int) -> list[ComparedPhoto]:
    """Choose the worst photos, the best, and the worst of each class; the worst come first.

    What it chooses of parts, and then of what was chosen of these, is what it chooses of all.
    """
    ordered = sorted(photos, key=lambda photo: (photo.quality, str(photo.image_id)))
    chosen = {*range(len(ordered))[:NUM_WORST], *range(len(ordered))[-NUM_BEST:]}
    by_class: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for position, photo in enumerate(ordered):
        for label, quality in photo.class_quality.items():
            by_class[label].append((quality, position))
    of_class = min(NUM_OF_CLASS, NUM_OF_ALL_CLASSES // max(num_classes, 1))
    for pairs in by_class.values():
        chosen.update(position for _, position in sorted(pairs)[:of_class])
    return [ordered[position] for position in sorted(chosen)]


def segment_scores(
    ids: np.ndarray, segments: Sequence[Mapping[str, Any]], classes: Sequence[int], scores: Any
) -> list[float]:
    """Return the mean semantic score of each segment's class over its pixels, at most 1.

    Args:
        ids: (H, W) of the segments.
        classes: contiguous class of each segment.
        scores: tensor (K, H, W), a semantic result.
    """
    means = []
    for info, label in zip(segments, classes, strict=True):
        inside = ids == info["id"]
        means.append(min(1.0, float(scores[label].cpu().numpy()[inside].mean())))
    return means


def _class_quality(outcomes: np.ndarray) -> dict[int, float]:
    """Return PQ of each class on a photo."""
    labels, inverse = np.unique(outcomes["category"], return_inverse=True)
    weight = np.where(outcomes["result"] == MATCHED, 1.0, 0.5)
    quality = np.bincount(inverse, outcomes["iou"]) / np.bincount(inverse, weight)
    pairs = zip(labels.tolist(), quality.tolist(), strict=True)
    return {label: value for label, value in pairs if label >= 0}


def _with_reason(result: str, reason: str) -> str:
    return f"{result}: {reason}" if reason else result
