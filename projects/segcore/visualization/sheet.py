"""Pictures side by side on one sheet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segcore.opencv import cv2
from segcore.text import printable
from segcore.visualization.labels import font_for

BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
HIGHEST = 4  # height of a cell over its width; taller pictures become narrower than their column


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    captions: Sequence[str] = (),
    *,
    cell_width: int = 360,
    margin: int = 12,
) -> np.ndarray:
    """Arrange pictures in rows and columns, with titles over columns and captions under rows.

    Args:
        rows: RGB uint8 pictures (H, W, 3) of any size; every row has the same number of them. They
            are scaled to the width of a column (:func:`fitted_size`); a row is as high as its
            highest picture.
        titles: one a column, or none.
        captions: one a row, or none.
        cell_width: width of a column in pixels.
        margin: white space between and around the pictures in pixels.

    Returns:
        uint8 RGB.

    Raises:
        ValueError: no picture, rows of different length, another number of titles or captions.
    """
    columns = len(rows[0]) if rows else 0
    if columns == 0 or any(len(row) != columns for row in rows):
        raise ValueError(f"rows: expected rows of equal length, got {[len(row) for row in rows]}")
    for name, texts, count in (("titles", titles, columns), ("captions", captions, len(rows))):
        if texts and len(texts) != count:
            raise ValueError(f"{name}: expected {count}, got {len(texts)}")

    size = max(10, cell_width // 20)
    line = 2 * (font_for("Ag", size).getbbox("Ag")[3]) if titles or captions else 0
    cells = [[scaled(picture, cell_width) for picture in row] for row in rows]
    row_heights = [max(len(cell) for cell in row) for row in cells]
    title_height = line if titles else 0
    caption_height = line if captions else 0
    width = margin + columns * (cell_width + margin)
    height = margin + title_height + sum(row_heights) + len(rows) * (margin + caption_height)

    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    lefts = [margin + column * (cell_width + margin) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        position = (left + cell_width // 2, margin + line // 3)
        _write(draw, position, title, size, anchor="mm")
    top = margin + title_height
    for index, (row, row_height) in enumerate(zip(cells, row_heights, strict=True)):
        for left, cell in zip(lefts, row, strict=True):
            height, width = cell.shape[:2]
            corner = left + (cell_width - width) // 2, top + (row_height - height) // 2
            canvas.paste(Image.fromarray(cell), corner)
        top += row_height
        if captions:
            position = (lefts[0], top + line // 2)
            _write(draw, position, captions[index], size, anchor="lm")
        top += margin + caption_height
    return np.asarray(canvas)


def _write(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, anchor: str
) -> None:
    text = printable(text)
    draw.text(position, text, fill=INK, font=font_for(text, size), anchor=anchor)


def fitted_size(image: np.ndarray, width: int) -> tuple[int, int]:
    """Return (width, height) of a picture scaled to a column, which bounds its height too."""
    scale = min(width / image.shape[1], HIGHEST * width / image.shape[0])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def scaled(image: np.ndarray, width: int) -> np.ndarray:
    """Scale a picture (H, W, 3) uint8 to its :func:`fitted_size`."""
    size = fitted_size(image, width)
    if size == image.shape[1::-1]:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(
        np.ascontiguousarray(image),
        size,
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
    )
