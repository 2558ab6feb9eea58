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
    merge = PixelWiseMerge(
        scores[candidates],
        labels[candidates],
        masks.shape[1:],
        thing_ids=thing_ids,
        mask_threshold=mask_threshold,
        min_visible_share=min_visible_share,
    )
    for window in row_windows(masks.shape[1:], PIXELS_PER_CHUNK):
        merge.add(window, masks[candidates, window.rows])
    return merge.result()


class PixelWiseMerge:
    """:func:`merge_pixel_wise` of masks that arrive window by window.

    Args:
        scores, labels: (n,) of the candidates.
        size: (H, W) of the masks.
    """

    def __init__(
        self,
        scores: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        *,
        thing_ids: Collection[int],
        mask_threshold: float,
        min_visible_share: float,
    ):
        self.scores = scores
        self.labels = labels
        self.thing_ids = thing_ids
        self.mask_threshold = mask_threshold
        self.min_visible_share = min_visible_share
        device = scores.device
        # The best mask's number from 1 at each pixel, 0 where the pixel is not inside of it.
        self._best = torch.zeros(size, dtype=torch.int32, device=device)
        # Pixels won outside and inside of the winning mask, and of each mask.
        self._won = torch.zeros((len(scores), 2), dtype=torch.int64, device=device)
        self._areas = torch.zeros(len(scores), dtype=torch.int64, device=device)

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
        self._won += won.view(count, 2)
        self._areas += inside.flatten(1).sum(dim=1)
        self._best[window] = ((winner + 1) * foreground).to(torch.int32)

    def result(self) -> PanopticResult:
        """Return the map and its segments."""
        if len(self.scores) == 0:
            return self._best, []
        mask_ids, segments = number_visible(
            self.labels, self._areas, self._won, self.min_visible_share, self.thing_ids
        )
        ids = torch.tensor([0, *mask_ids], dtype=torch.int32, device=self._best.device)
        return ids[self._best], segments


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
