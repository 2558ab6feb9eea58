"""Pixel-wise merging: each pixel goes to the mask with the largest score times mask value."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from segcore.inference.masks import MASKS_PER_CHUNK, PIXELS_PER_CHUNK, mask_areas
from segcore.inference.segments import PanopticResult, number_segments


def merge_pixel_wise(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    thing_ids: Collection[int],
    score_threshold: float,
    mask_threshold: float = 0.5,
    min_visible_share: float = 0.0,
) -> PanopticResult:
    """Give each pixel to the mask with the largest class score times mask value, at most 1.

    The pixel is void if that mask's value is below ``mask_threshold``. With
    ``min_visible_share`` it is the merging of MaskFormer (section 3.4 of its paper): a mask that
    wins fewer pixels, as a share of its area, is left out, and its pixels stay void.

    Args:
        scores: (N,) class scores.
        labels: (N,) int64 classes.
        masks: (N, H, W) mask values.
        thing_ids: classes whose segments are instances; the segments of another are one.
        score_threshold: masks with no larger class score are left out.

    Returns:
        See :class:`~segcore.inference.merging.PanopticMerging`.
    """
    candidates = (scores > score_threshold).nonzero()[:, 0]
    count = len(candidates)
    if count == 0:
        return torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device), []
    winner = _best_mask(scores, masks, candidates)
    foreground = masks.gather(0, candidates[winner][None])[0] >= mask_threshold
    # Pixels won outside and inside of the winning mask.
    won = torch.bincount((winner * 2 + foreground).flatten(), minlength=2 * count).view(count, 2)
    areas = torch.cat(
        [mask_areas(masks[part] >= mask_threshold) for part in candidates.split(MASKS_PER_CHUNK)]
    )

    mask_ids, segments = number_visible(
        labels[candidates], areas, won, min_visible_share, thing_ids
    )
    ids = torch.tensor(mask_ids, dtype=torch.int32, device=winner.device)
    return ids[winner] * foreground, segments


def number_visible(
    labels: Tensor,
    areas: Tensor,
    won: Tensor,
    min_visible_share: float,
    thing_ids: Collection[int],
) -> tuple[list[int], list[dict[str, Any]]]:
    """Apply :func:`number_segments` to the masks of which enough is visible.

    Args:
        labels: (n,) int64 classes.
        areas: (n,) pixels of each mask.
        won: (n, 2) pixels that each mask wins, outside and inside of the mask.
        min_visible_share: least number of pixels won as a share of the area.
    """
    # One copy to the host; what follows is about at most n masks.
    table = torch.stack((labels, areas, won.sum(dim=1), won[:, 1]), dim=1).tolist()
    visible = [inside > 0 and total / area >= min_visible_share for _, area, total, inside in table]
    return number_segments([row[0] for row in table], visible, thing_ids)


def _best_mask(scores: Tensor, masks: Tensor, candidates: Tensor) -> Tensor:
    """Return the index (H, W) into the ``candidates`` (n,) of the best mask at each pixel."""
    _, height, width = masks.shape
    winner = torch.empty((height, width), dtype=torch.int64, device=masks.device)
    scores = scores[candidates, None, None]
    rows = max(1, PIXELS_PER_CHUNK // max(1, width))
    for values, target in zip(masks.split(rows, 1), winner.split(rows), strict=True):
        target.copy_((values[candidates].clamp_(max=1) * scores).argmax(dim=0))
    return winner
