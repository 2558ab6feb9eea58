"""Mask-wise merging (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segcore.inference.rating import MaskRating, measure_masks
from segcore.inference.segments import PanopticResult, number_segments


class RatedMasks(NamedTuple):
    """Binary masks with their merged scores and areas."""

    scores: Tensor  # (N,) merged scores of class and mask, at least float32
    binary: Tensor  # (N, H, W) bool
    areas: Tensor  # (N,) int64, pixels of each binary mask


def rate_masks(scores: Tensor, masks: Tensor, rating: MaskRating) -> RatedMasks:
    """Compute merged scores of masks. Mask values may exceed 1, and so may merged scores.

    Args:
        scores: (N,) class scores.
        masks: (N, H, W) mask values.
    """
    binary, sums, areas = measure_masks(masks, rating)
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

    A mask is left out if its merged score is below the quality threshold, or if a larger share of
    it than the overlap threshold is taken already. There is no least area.

    Args:
        rated: N masks (H, W).
        labels: (N,) int64 classes.
        thing_ids: classes whose segments are instances.
        quality_thresholds, overlap_thresholds: for things and for stuff.

    Returns:
        See :class:`~segcore.inference.merging.PanopticMerging`; segments have their merged scores.
    """
    is_thing_mask = is_thing(labels, thing_ids)
    qualities = per_kind(quality_thresholds, is_thing_mask, rated.scores.dtype)
    order = rated.scores.argsort(descending=True, stable=True)
    order = order[((rated.scores >= qualities) & (rated.areas > 0))[order]]
    areas = rated.areas[order].double()
    limits = per_kind(overlap_thresholds, is_thing_mask[order], areas.dtype)

    ids = torch.zeros(rated.binary.shape[1:], dtype=torch.int32, device=labels.device)
    free = torch.ones_like(ids, dtype=torch.bool)
    selected = []
    # Sequential by definition: pixels of one mask are taken for the next ones.
    for rank, mask in enumerate(order.tolist()):
        won = rated.binary[mask] & free
        count = won.count_nonzero()
        selected.append(((areas[rank] - count) / areas[rank] <= limits[rank]) & (count > 0))
        won &= selected[-1]
        ids.masked_fill_(won, rank + 1)
        free ^= won
    if not selected:
        return ids, []
    # One copy to the host; a double holds every class.
    table = (labels[order].double(), torch.stack(selected).double(), rated.scores[order].double())
    classes, is_selected, scores = torch.stack(table).tolist()
    mask_ids, segments = number_scored_segments(classes, is_selected, scores, thing_ids)
    return torch.tensor([0, *mask_ids], dtype=torch.int32, device=ids.device)[ids], segments


def number_scored_segments(
    labels: Iterable[float],
    selected: Iterable[bool],
    scores: Sequence[float],
    thing_ids: Collection[int],
) -> tuple[list[int], list[dict[str, Any]]]:
    """Apply :func:`number_segments` to masks by falling score.

    The score of a segment is that of its best mask.
    """
    mask_ids, segments = number_segments(map(int, labels), selected, thing_ids)
    # Backwards, so that the best mask of a segment is written last.
    for segment_id, score in zip(reversed(mask_ids), reversed(scores), strict=True):
        if segment_id:
            segments[segment_id - 1]["score"] = score
    return mask_ids, segments


def is_thing(labels: Tensor, thing_ids: Collection[int]) -> Tensor:
    """Return True where ``labels`` (N,) are things: (N,) bool."""
    thing_labels = torch.tensor(sorted(thing_ids), dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, thing_labels)


def per_kind(thresholds: tuple[float, float], is_thing_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the threshold of each mask from those for things and for stuff: (N,) of ``dtype``."""
    thing_threshold, stuff_threshold = thresholds
    by_kind = [stuff_threshold, thing_threshold]
    return torch.tensor(by_kind, dtype=dtype, device=is_thing_mask.device)[is_thing_mask.long()]
