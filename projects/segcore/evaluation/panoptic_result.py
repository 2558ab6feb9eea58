"""Panoptic quality and what it is made of, from the outcomes of all segments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segcore.evaluation.segment_matching import CAUSES, INVENTED, MATCHED, MISSED, OUTCOME

# COCO's sizes: name -> smallest and largest area in pixels, the latter excluded.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ in [0, 1]; NaN where no class occurs.

    Attributes:
        num_classes: number of classes that occur, over which the mean is taken.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


@dataclass(frozen=True)
class ClassCounts:
    """Counts (K,) of each class, and the sum of the IoU of its matches.

    Attributes:
        tp, fp, fn: int64, matched, invented and missed segments.
        iou: float64.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou: np.ndarray

    @property
    def occurs(self) -> np.ndarray:
        """Classes that truth or prediction have: bool (K,)."""
        return self.tp + self.fp + self.fn > 0

    @property
    def weight(self) -> np.ndarray:
        """Denominator of PQ: float64 (K,)."""
        return self.tp + 0.5 * self.fp + 0.5 * self.fn

    def quality(self) -> np.ndarray:
        """Return PQ, SQ and RQ of each class: float64 (3, K), NaN where it does not occur."""
        with np.errstate(divide="ignore", invalid="ignore"):
            sq = np.where(self.tp > 0, self.iou / self.tp, 0.0)
            values = np.stack((self.iou / self.weight, sq, self.tp / self.weight))
        return np.where(self.occurs, values, np.nan)


@dataclass(frozen=True)
class PanopticResult:
    """Panoptic quality of a data set, and what it is made of.

    Attributes:
        categories: of the data set.
        num_images: of the data set.
        image: int64 (n,), the index of the image of each outcome.
        outcomes: structured array (n,) of :data:`OUTCOME`.
    """

    categories: Sequence[Mapping[str, Any]]
    num_images: int
    image: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def of_images(
        cls, categories: Sequence[Mapping[str, Any]], images: Sequence[np.ndarray]
    ) -> "PanopticResult":
        """Collect the outcomes of each image; those of classes not in ``categories`` are left out.

        The order of the images decides the last bit of sums.
        """
        image = np.repeat(np.arange(len(images)), [len(outcomes) for outcomes in images])
        outcomes = np.concatenate([np.zeros(0, OUTCOME), *images])
        known = outcomes["category"] >= 0
        return cls(categories, len(images), image[known], outcomes[known])

    def counts(self, size: str | None = None) -> ClassCounts:
        """Return the counts of each class.

        Args:
            size: count only segments of this size, a name of :data:`SIZES`: matched and missed ones
                by their area in the truth, invented ones by their own.
        """
        selected = self._of_size(size)
        outcomes, image = self.outcomes[selected], self.image[selected]
        num_classes = len(self.categories)
        tp, fp, fn = (
            np.bincount(outcomes["category"][outcomes["result"] == result], minlength=num_classes)
            for result in (MATCHED, INVENTED, MISSED)
        )
        matched = outcomes["result"] == MATCHED
        matches = outcomes[matched]
        # The order of panopticapi: first within an image, then image after image.
        keys, inverse = np.unique(
            image[matched] * num_classes + matches["category"], return_inverse=True
        )
        sums = np.bincount(inverse, matches["iou"], minlength=len(keys))
        iou = np.bincount(keys % max(num_classes, 1), sums, minlength=num_classes)
        return ClassCounts(tp, fp, fn, iou)

    def mean(self, *, things: bool | None = None, size: str | None = None) -> Quality:
        """Return the mean quality of the classes that occur.

        Args:
            things: only things, only stuff, or all classes.
            size: see :meth:`counts`.
        """
        return mean_quality(self.counts(size), self.categories, things)

    def costs(self, *, things: bool | None = None) -> dict[str, float]:
        """Return what each cause costs, in [0, 1]; with PQ they sum up to 1.

        A match costs 1 - IoU ("outline"), a missed or invented segment one half, by its cause:
        "wrong class", "merged", "split", "outline", and "missed" or "invented" where it is none of
        these; divided by the denominator of PQ and averaged over the classes that occur.
        """
        counts = self.counts()
        chosen = counts.occurs & _of_group(self.categories, things)
        outcomes, num_classes = self.outcomes, len(self.categories)
        loss = np.where(outcomes["result"] == MATCHED, 1 - outcomes["iou"], 0.5)
        not_found = CAUSES.index("not found")
        costs = {}
        for cause, name in enumerate(CAUSES):
            of_cause = outcomes["cause"] == cause
            parts = {name: of_cause}
            if cause == not_found:
                parts = {
                    "missed": of_cause & (outcomes["result"] == MISSED),
                    "invented": of_cause & (outcomes["result"] == INVENTED),
                }
            for part, rows in parts.items():
                sums = np.bincount(outcomes["category"][rows], loss[rows], minlength=num_classes)
                costs[part] = _mean(sums[chosen] / counts.weight[chosen])
        return costs

    def confusion(self) -> np.ndarray:
        """Return how many truth segments were found as segments of each class.

        Returns:
            int64 (K + 1, K + 1), rows by truth, columns by prediction. The last column counts
            segments that were not found, the last row those that were invented.
        """
        outcomes, num_classes = self.outcomes, len(self.categories)
        matched = outcomes["result"] == MATCHED
        missed = outcomes["result"] == MISSED
        invented = (outcomes["result"] == INVENTED) & (
            outcomes["cause"] != CAUSES.index("wrong class")
        )
        category, other = outcomes["category"], outcomes["other"]
        rows = (category[matched], category[missed], np.full(invented.sum(), num_classes))
        columns = (
            category[matched],
            np.where(other[missed] >= 0, other[missed], num_classes),
            category[invented],
        )
        side = num_classes + 1
        flat = np.concatenate(rows) * side + np.concatenate(columns)
        return np.bincount(flat, minlength=side * side).reshape(side, side)

    def image_quality(self) -> np.ndarray:
        """Return the mean PQ of the classes of each image: float64 (images,), NaN without any."""
        num_classes = len(self.categories)
        keys, inverse = np.unique(
            self.image * num_classes + self.outcomes["category"], return_inverse=True
        )
        weight = np.where(self.outcomes["result"] == MATCHED, 1.0, 0.5)
        values = np.bincount(inverse, self.outcomes["iou"]) / np.bincount(inverse, weight)
        image = keys // max(num_classes, 1)
        with np.errstate(invalid="ignore"):
            sums = np.bincount(image, values, minlength=self.num_images)
            return sums / np.bincount(image, minlength=self.num_images)

    def _of_size(self, size: str | None) -> np.ndarray:
        if size is None:
            return np.ones(len(self.outcomes), bool)
        if size not in SIZES:
            raise ValueError(f"size: expected one of {list(SIZES)}, got {size!r}")
        low, high = SIZES[size]
        return (self.outcomes["area"] >= low) & (self.outcomes["area"] < high)


def mean_quality(
    counts: ClassCounts, categories: Sequence[Mapping[str, Any]], things: bool | None = None
) -> Quality:
    """Return the mean quality of the classes that occur: only things, only stuff, or all."""
    chosen = counts.occurs & _of_group(categories, things)
    values = [_mean(row[chosen]) for row in counts.quality()]
    return Quality(*values, num_classes=int(chosen.sum()))


def _of_group(categories: Sequence[Mapping[str, Any]], things: bool | None) -> np.ndarray:
    if things is None:
        return np.ones(len(categories), bool)
    return np.array([bool(category.get("isthing")) == things for category in categories], bool)


def _mean(values: np.ndarray) -> float:
    """Return the mean as panopticapi sums it; NaN of nothing."""
    return sum(values.tolist()) / len(values) if len(values) else math.nan
