"""COCO run-length encoding of masks that are given window by window."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor

from segcore.inference.windows import Window

# Changes to collect before they are sorted.
_PENDING_CHANGES = 1 << 22


def mask_areas(masks: Iterable[dict[str, Any]]) -> np.ndarray:
    """Return the areas (n,) int64 in pixels of masks in COCO's compressed form.

    One after the other: pycocotools 2.0.11 fails on lists of more than 255 with NumPy 2.
    """
    return np.array([int(mask_util.area(mask)) for mask in masks], np.int64)


class RunLengthEncoder:
    """Encoder that collects the changes between 0 and 1 along the columns, COCO's order.

    Memory grows with the number of runs, not of pixels.

    Args:
        count: number N of masks.
        size: (H, W) of each, at least one pixel.
    """

    def __init__(self, count: int, size: tuple[int, int]):
        self.size = size
        self._first_row = np.zeros((count, size[1]), dtype=bool)
        self._last_row = np.zeros_like(self._first_row)
        self._positions: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0

    def open_masks(self, window: Window) -> Tensor:
        """Return the masks (N,) bool that have a pixel in the row above the window.

        They must be added even if they have none in the window.
        """
        return torch.from_numpy(self._last_row[:, window.columns].any(axis=1))

    def add(self, masks: Tensor, pixels: Tensor, window: Window) -> None:
        """Add a window of some masks; windows come from top to bottom.

        Args:
            masks: (n,) int64, indices of the masks.
            pixels: (n, rows, columns) bool.
        """
        masks, pixels = masks.cpu().numpy(), pixels.cpu().numpy()
        height, width = window.size
        top, left = window.rows.start, window.columns.start
        changes = np.empty(pixels.shape, dtype=bool)
        np.not_equal(pixels[:, 1:], pixels[:, :-1], out=changes[:, 1:])
        if top == 0:
            self._first_row[masks, window.columns] = pixels[:, 0]
            changes[:, 0] = False  # the last row of the column before is not known yet
        else:
            np.not_equal(pixels[:, 0], self._last_row[masks, window.columns], out=changes[:, 0])
        self._last_row[masks, window.columns] = pixels[:, -1]
        row, column = np.divmod(np.flatnonzero(changes), width)
        index, row = np.divmod(row, height)
        self._hold(masks[index], (column + left) * self.size[0] + (row + top))

    def finish(self) -> list[dict[str, Any]]:
        """Return the N masks in COCO's compressed form: {"size": [H, W], "counts": bytes}."""
        previous = np.zeros_like(self._last_row)
        previous[:, 1:] = self._last_row[:, :-1]
        masks, columns = np.nonzero(self._first_row != previous)
        self._hold(masks, columns * self.size[0])
        self._flush()
        return [self._encode(mask) for mask in range(len(self._positions))]

    def _hold(self, masks: np.ndarray, positions: np.ndarray) -> None:
        self._pending.append((masks.astype(np.int16), positions.astype(np.uint32)))
        self._num_pending += len(positions)
        if self._num_pending > _PENDING_CHANGES:
            self._flush()

    def _flush(self) -> None:
        if not (self._pending and self._positions):
            return
        masks, positions = map(np.concatenate, zip(*self._pending, strict=True))
        self._pending, self._num_pending = [], 0
        order = masks.argsort(kind="stable")
        counts = np.bincount(masks, minlength=len(self._positions))
        for parts, part in zip(
            self._positions, np.split(positions[order], counts.cumsum()[:-1]), strict=True
        ):
            if len(part):
                parts.append(part.copy())

    def _encode(self, mask: int) -> dict[str, Any]:
        parts, self._positions[mask] = self._positions[mask], []
        height, width = self.size
        positions = np.concatenate([np.zeros(1, np.uint32), *parts])
        positions[1:].sort()
        counts = np.diff(positions, append=np.uint32(height * width))
        return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
