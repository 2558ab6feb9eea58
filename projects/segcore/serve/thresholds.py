"""Thresholds of panoptic merging, as the page shows them and as requests carry them."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from segcore.cli.predict import share
from segcore.errors import UserError
from segcore.inference.merging import PanopticMerging
from segcore.text import did_you_mean, short_repr


class ThresholdError(UserError, ValueError):
    """A threshold that there is not, or that is no number in [0, 1]."""


class Threshold(NamedTuple):
    """A number in [0, 1] of a merging.

    Attributes:
        field: of :class:`PanopticMerging`.
        index: position in the field, if that is a pair (things, stuff); else None.
        label: its name in the page.
    """

    field: str
    index: int | None
    label: str

    def value(self, merging: PanopticMerging) -> float:
        value = getattr(merging, self.field)
        return value if self.index is None else value[self.index]

    def set(self, merging: PanopticMerging, value: float) -> PanopticMerging:
        """Return a merging with another value."""
        if self.index is None:
            return replace(merging, **{self.field: value})
        pair = list(getattr(merging, self.field))
        pair[self.index] = value
        return replace(merging, **{self.field: tuple(pair)})


_SCORE = {"score": Threshold("score_threshold", None, "least score of a class")}
_VISIBLE = {"visible": Threshold("min_visible_share", None, "least visible share of a mask")}
_MASK = {"mask": Threshold("mask_threshold", None, "least value of a pixel in a mask")}
_QUALITY_AND_OVERLAP = {
    "quality-things": Threshold("quality_thresholds", 0, "least score of a thing"),
    "quality-stuff": Threshold("quality_thresholds", 1, "least score of stuff"),
    "overlap-things": Threshold("overlap_thresholds", 0, "largest hidden share of a thing"),
    "overlap-stuff": Threshold("overlap_thresholds", 1, "largest hidden share of stuff"),
}
# By name in requests; those that a strategy heeds.
THRESHOLDS = {
    "mask2former": _SCORE | _VISIBLE | _MASK,
    "pixel_wise": _SCORE | _MASK,
    "mask_wise": _QUALITY_AND_OVERLAP | _MASK,
}


def threshold_content(merging: PanopticMerging) -> list[dict[str, Any]]:
    """Return name, label and value of each threshold, for the page."""
    return [
        {"name": name, "label": threshold.label, "value": threshold.value(merging)}
        for name, threshold in THRESHOLDS[merging.strategy].items()
    ]


def with_thresholds(merging: PanopticMerging, values: Mapping[str, str]) -> PanopticMerging:
    """Return a merging with the thresholds of a request; those not given stay.

    Raises:
        ThresholdError: there is no such threshold, or the value is no number in [0, 1].
    """
    known = THRESHOLDS[merging.strategy]
    for name, text in values.items():
        if name not in known:
            raise ThresholdError(
                f"{short_repr(name)}: expected one of {', '.join(known)}{did_you_mean(name, known)}"
            )
        try:
            merging = known[name].set(merging, share(text))
        except argparse.ArgumentTypeError as error:
            raise ThresholdError(f"{name}: {error}") from error
    return merging
