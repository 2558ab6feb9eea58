"""Pictures side by side on one sheet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    captions: Sequence[str] = (),
    *,
    cell_width: int = 360,
    margin: int = 12,
) -> np.ndarray:
    """Pictures in rows and columns, with a title over every column and a caption under every row.

    Args:
        rows: RGB uint8 pictures (H, W, 3) of any size; every row has the same number of them. They
            are scaled to the width of a column; a row is as high as its highest picture.
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

    font = ImageFont.load_default(size=max(10, cell_width // 20))
    line = 2 * (font.getbbox("Ag")[3]) if titles or captions else 0
    cells = [[_scaled(picture, cell_width) for picture in row] for row in rows]
    row_heights = [max(cell.height for cell in row) for row in cells]
    title_height = line if titles else 0
    caption_height = line if captions else 0
    width = margin + columns * (cell_width + margin)
    height = margin + title_height + sum(row_heights) + len(rows) * (margin + caption_height)

    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    lefts = [margin + column * (cell_width + margin) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        position = (left + cell_width // 2, margin + line // 3)
        draw.text(position, title, fill=INK, font=font, anchor="mm")
    top = margin + title_height
    for index, (row, row_height) in enumerate(zip(cells, row_heights, strict=True)):
        for left, cell in zip(lefts, row, strict=True):
            canvas.paste(cell, (left, top + (row_height - cell.height) // 2))
        top += row_height
        if captions:
            position = (lefts[0], top + line // 2)
            draw.text(position, captions[index], fill=INK, font=font, anchor="lm")
        top += margin + caption_height
    return np.asarray(canvas)


def _scaled(picture: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)
