"""Binary masks, and scores of masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.inference.masks import MASKS_PER_CHUNK, mask_areas, sum_inside


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


def measure_masks(
    masks: Tensor, indices: Tensor, activation: Callable[[Tensor], Tensor], rating: MaskRating
) -> MeasuredMasks:
    """Measure the masks with these indices (n,).

    Args:
        masks: (N, H, W) logits.
        activation: function from logits to mask values.
    """
    binary = torch.empty((len(indices), *masks.shape[1:]), dtype=torch.bool, device=masks.device)
    # At least float32: a half cannot count pixels.
    dtype = torch.promote_types(masks.dtype, torch.float32)
    sums = torch.zeros(len(indices), dtype=dtype, device=masks.device)
    for chunk, inside, target in zip(
        indices.split(MASKS_PER_CHUNK),
        binary.split(MASKS_PER_CHUNK),
        sums.split(MASKS_PER_CHUNK),
        strict=True,
    ):
        logits = masks[chunk]
        values = activation(logits)
        inside.copy_(rating.inside(logits, values))
        target.copy_(sum_inside(values, inside))
    return MeasuredMasks(binary, sums, mask_areas(binary))
