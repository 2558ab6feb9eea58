"""Pixel-wise merging: each pixel goes to the mask with the largest score times mask value."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from segcore.inference.masks import PIXELS_PER_CHUNK
from segcore.inference.segments import PanopticResult, number_segments
from segcore.inference.windows import Window, row_windows


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
    scores, labels = scores[candidates], labels[candidates]
    merge = PixelWiseMerge(scores, masks.shape[1:], mask_threshold)
    for window in row_windows(masks.shape[1:], PIXELS_PER_CHUNK):
        merge.add(window, masks[candidates, window.rows])
    return paint_visible(merge.best, merge.won, labels, min_visible_share, thing_ids)


class PixelWiseMerge:
    """Competition of candidates for the pixels, with values that arrive window by window.

    Args:
        scores: (n,) of the candidates.
        size: (H, W) of the masks.
        mask_threshold: pixels of a candidate with at least this value are inside of it.

    Attributes:
        best, won: see :class:`segcore.ops.MaskInference`.
    """

    def __init__(self, scores: Tensor, size: tuple[int, int], mask_threshold: float):
        self.scores = scores
        self.mask_threshold = mask_threshold
        self.best = torch.zeros(size, dtype=torch.int32, device=scores.device)
        self.won = torch.zeros((len(scores), 3), dtype=torch.int64, device=scores.device)

    def add(self, window: Window, values: Tensor) -> None:
        """Add the values (n, rows, columns) of the candidates in a window."""
        count = len(self.scores)
        if count == 0:
            return
        # A CPU's argmax over the first dimension takes four times as long as max.
        winner = (values.clamp(max=1) * self.scores[:, None, None]).max(dim=0).indices
        inside = values >= self.mask_threshold
        foreground = inside.gather(0, winner[None])[0]
        won = torch.bincount((winner * 2 + foreground).flatten(), minlength=2 * count)
        self.won[:, :2] += won.view(count, 2)
        self.won[:, 2] += inside.flatten(1).sum(dim=1)
        self.best[window] = ((winner + 1) * foreground).to(torch.int32)


def paint_visible(
    best: Tensor,
    won: Tensor,
    labels: Tensor,
    min_visible_share: float,
    thing_ids: Collection[int],
) -> PanopticResult:
    """Return the panoptic map and its segments, without candidates of which too little is visible.

    Args:
        best: (H, W) int32, number of the candidate from 1 at each pixel, or 0.
        won: (n, 3), see :func:`number_visible`.
        labels: (n,) int64 classes.
    """
    if len(labels) == 0:
        return best, []
    mask_ids, segments = number_visible(labels, won, min_visible_share, thing_ids)
    ids = torch.tensor([0, *mask_ids], dtype=torch.int32, device=best.device)
    return ids[best], segments


def number_visible(
    labels: Tensor, won: Tensor, min_visible_share: float, thing_ids: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Apply :func:`number_segments` to the masks of which enough is visible.

    Args:
        labels: (n,) int64 classes.
        won: (n, 3), pixels that each mask wins, outside and inside of the mask, and its own.
        min_visible_share: least number of pixels won as a share of the mask's own.
    """
    # One copy to the host; what follows is about at most n masks.
    table = torch.cat((labels[:, None], won), dim=1).tolist()
    visible = [
        inside > 0 and (outside + inside) / area >= min_visible_share
        for _, outside, inside, area in table
    ]
    return number_segments([row[0] for row in table], visible, thing_ids)
