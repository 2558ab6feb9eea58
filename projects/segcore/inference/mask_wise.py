"""Mask-wise merging (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segcore.inference.rating import MaskRating, measure_masks
from segcore.inference.segments import PanopticResult, number_segments


class RatedMasks(NamedTuple):
    """Masks with what decides about them."""

    scores: Tensor  # (N,) merged scores of class and mask, at least float32
    binary: Tensor  # (N, H, W) bool
    areas: Tensor  # (N,) int64, pixels of each binary mask


def rate_masks(scores: Tensor, masks: Tensor, rating: MaskRating) -> RatedMasks:
    """Merged scores of masks. Mask values may exceed 1, and so may merged scores.

    Args:
        scores: (N,) class scores.
        masks: (N, H, W) mask values.
    """
    indices = torch.arange(len(masks), device=masks.device)
    binary, sums, areas = measure_masks(masks, indices, lambda values: values, rating)
    return RatedMasks(rating.scores(scores, sums, areas), binary, areas)


def merge_mask_wise(
    rated: RatedMasks,
    labels: Tensor,
    *,
    thing_ids: Collection[int],
    quality_thresholds: tuple[float, float],
    overlap_thresholds: tuple[float, float],
) -> PanopticResult:
    """Write the masks by falling merged score, each to the pixels that are still free.

    A mask is left out where its merged score is below the quality threshold, or where more than
    the share ``overlap_threshold`` of it is taken. Nothing is too small.

    Args:
        rated: N masks (H, W).
        labels: (N,) int64 classes.
        thing_ids: classes whose segments are instances.
        quality_thresholds, overlap_thresholds: for things and for stuff.

    Returns:
        See :class:`~segcore.inference.merging.PanopticMerging`; segments have their merged scores.
    """
    things = is_thing(labels, thing_ids)
    qualities = per_kind(quality_thresholds, things, rated.scores.dtype)
    order = rated.scores.argsort(descending=True, stable=True)
    order = order[((rated.scores >= qualities) & (rated.areas > 0))[order]]
    areas = rated.areas[order].double()
    limits = per_kind(overlap_thresholds, things[order], areas.dtype)

    ids = torch.zeros(rated.binary.shape[1:], dtype=torch.int32, device=labels.device)
    free = torch.ones_like(ids, dtype=torch.bool)
    kept = []
    # The order is the algorithm: what one mask takes, the next ones lack.
    for number, mask in enumerate(order.tolist()):
        won = rated.binary[mask] & free
        count = won.count_nonzero()
        kept.append(((areas[number] - count) / areas[number] <= limits[number]) & (count > 0))
        won &= kept[-1]
        ids.masked_fill_(won, number + 1)
        free ^= won
    if not kept:
        return ids, []
    # One copy to the host; a double holds every class.
    table = (labels[order].double(), torch.stack(kept).double(), rated.scores[order].double())
    classes, is_kept, scores = torch.stack(table).tolist()
    numbers, segments = number_scored_segments(classes, is_kept, scores, thing_ids)
    return torch.tensor([0, *numbers], dtype=torch.int32, device=ids.device)[ids], segments


def number_scored_segments(
    labels: Iterable[float],
    kept: Iterable[bool],
    scores: Sequence[float],
    thing_ids: Collection[int],
) -> tuple[list[int], list[dict[str, Any]]]:
    """:func:`number_segments` of masks by falling score; a segment has that of its best mask."""
    numbers, segments = number_segments(map(int, labels), kept, thing_ids)
    for number, score in zip(reversed(numbers), reversed(scores), strict=True):
        if number:
            segments[number - 1]["score"] = score
    return numbers, segments


def is_thing(labels: Tensor, thing_ids: Collection[int]) -> Tensor:
    """Which of ``labels`` (N,) are things: (N,) bool."""
    things = torch.tensor(sorted(thing_ids), dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, things)


def per_kind(thresholds: tuple[float, float], things: Tensor, dtype: torch.dtype) -> Tensor:
    """The threshold of each mask, of a pair for things and for stuff: (N,) of ``dtype``."""
    of_things, of_stuff = thresholds
    return torch.tensor([of_stuff, of_things], dtype=dtype, device=things.device)[things.long()]
