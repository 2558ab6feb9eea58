"""Tiles of large images, which overlap."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from segcore.errors import ConfigError
from segcore.inference.windows import Size, Window


class Tile(NamedTuple):
    """A part of an image.

    Attributes:
        window: its rows and columns in the image.
        row, column: its place in the grid of tiles.
        shared: number of its first rows and of its first columns that the tiles above and to the
            left of it have, too.
    """

    window: Window
    row: int
    column: int
    shared: Size

    def strips(self) -> list[Window]:
        """Return the parts, in pixels of the tile, that it shares with the tiles before it."""
        (height, width), (rows, columns) = self.window.size, self.shared
        strips = []
        if rows:
            strips.append(Window(slice(0, rows), slice(0, width)))
        if columns:
            strips.append(Window(slice(0, height), slice(0, columns)))
        return strips

    def near_earlier(self) -> np.ndarray:
        """Return the pixels (h, w) bool that lie deeper inside of an earlier tile than of this one.

        The seam runs along the middle of the shared strip, far from both borders.
        """
        height, width = self.window.size
        rows, columns = np.arange(height) < self.shared[0] // 2, np.arange(width)
        return rows[:, None] | (columns < self.shared[1] // 2)


def tiles_of(size: Size, tile: int, overlap: int) -> Iterator[Tile]:
    """Yield tiles that cover an image, row by row, evenly spread.

    Args:
        size: (H, W) of the image.
        tile: side of a tile in pixels; a shorter side of the image is not cut.
        overlap: least number of rows, or columns, that neighbors share.

    Raises:
        ConfigError: see :func:`check_tiling`.
    """
    check_tiling(tile, overlap)
    rows, columns = (_intervals(length, tile, overlap) for length in size)
    for row, (vertical, shared_rows) in enumerate(rows):
        for column, (horizontal, shared_columns) in enumerate(columns):
            yield Tile(Window(vertical, horizontal), row, column, (shared_rows, shared_columns))


def check_tiling(tile: int, overlap: int) -> None:
    """Check the sizes of tiles.

    Raises:
        ConfigError: neighbors share nothing, or more than half of a tile.
    """
    if not 1 <= overlap <= tile // 2:
        raise ConfigError(
            f"overlap: expected from 1 pixel to half of a tile of {tile}, got {overlap}"
        )


def _intervals(length: int, tile: int, overlap: int) -> list[tuple[slice, int]]:
    """Return evenly spread intervals of one side, and what each shares with the one before."""
    tile = min(tile, length)
    count = 1 if tile == length else -(-(length - overlap) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    before = [starts[0] - tile, *starts]
    return [
        (slice(start, start + tile), previous + tile - start)
        for start, previous in zip(starts, before, strict=False)
    ]
