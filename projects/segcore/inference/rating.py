"""Binary masks, and scores of masks."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.inference.masks import PIXELS_PER_CHUNK, mask_areas, sum_inside
from segcore.inference.windows import Window, row_windows


@dataclass(frozen=True)
class MaskRating:
    """Score of a mask: class score times mean value inside of the mask, each to its exponent.

    Args:
        threshold: pixels with a larger value are inside of the mask.
        of_logits: whether the threshold is for logits, not for mask values.
        area_offset: added to the area that the sum of values is divided by, so that an empty mask
            scores 0.
    """

    threshold: float
    of_logits: bool = False
    area_offset: float = 1.0
    class_exponent: float = 1.0
    mask_exponent: float = 1.0

    def inside(self, logits: Tensor, values: Tensor) -> Tensor:
        """Return binary masks from logits and the values made of them."""
        return (logits if self.of_logits else values) > self.threshold

    def scores(self, class_scores: Tensor, sums: Tensor, areas: Tensor) -> Tensor:
        """Return scores (n,) from class scores, sums of values inside of the masks, and areas."""
        means = sums / (areas + self.area_offset)
        return class_scores**self.class_exponent * means**self.mask_exponent


class MeasuredMasks(NamedTuple):
    """Binary masks with the sums and areas that their scores depend on."""

    binary: Tensor  # (n, H, W) bool
    sums: Tensor  # (n,) at least float32, of the values inside
    areas: Tensor  # (n,) int64, pixels


class MeasuredWindows:
    """:class:`MeasuredMasks` of masks that arrive window by window.

    Args:
        indices: (n,) int64, the masks to measure.
        size: (H, W) of the masks.
        dtype: of the mask values.
    """

    def __init__(
        self, indices: Tensor, size: tuple[int, int], rating: MaskRating, dtype: torch.dtype
    ):
        self.indices = indices
        self.rating = rating
        self._binary = torch.empty((len(indices), *size), dtype=torch.bool, device=indices.device)
        self._sums = torch.zeros(len(indices), dtype=torch.float64, device=indices.device)
        self._dtype = torch.promote_types(dtype, torch.float32)  # a half cannot count pixels

    def add(self, window: Window, logits: Tensor, values: Tensor) -> None:
        """Add logits and values (N, rows, columns) of all masks in a window."""
        values = values[self.indices]
        inside = self.rating.inside(logits[self.indices], values)
        self._binary[:, window.rows, window.columns] = inside
        self._sums += sum_inside(values, inside)

    def result(self) -> MeasuredMasks:
        """Return the masks and what was measured."""
        return MeasuredMasks(self._binary, self._sums.to(self._dtype), mask_areas(self._binary))


def measure_masks(masks: Tensor, rating: MaskRating) -> MeasuredMasks:
    """Measure masks (N, H, W), which hold mask values."""
    indices = torch.arange(len(masks), device=masks.device)
    measured = MeasuredWindows(indices, masks.shape[1:], rating, masks.dtype)
    for window in row_windows(masks.shape[1:], PIXELS_PER_CHUNK):
        rows = masks[:, window.rows]
        measured.add(window, rows, rows)
    return measured.result()
