"""Drawings of the tokens of a network, stage by stage, over their photo."""

from collections.abc import Sequence

import numpy as np
import torch

from segcore.visualization.sheet import scaled, sheet

CELL_WIDTH = 520  # pixels of each stage's picture
COLORS = "plasma"
PLAIN = "white"
DIMMED = 0.5  # brightness of the photo under the dots
DOT = 0.6  # diameter over the mean distance of tokens, in its bounds:
DOT_PIXELS = (1.5, 7.0)
CAPTION = (
    "A dot is a token; its color the importance, from dark to yellow over the range in the title. "
    "White: nothing is chosen after this stage."
)


def draw_focus(
    image: np.ndarray, stages: Sequence[tuple[torch.Tensor, torch.Tensor | None]]
) -> np.ndarray:
    """Draw a picture for each stage: its tokens as dots over the photo, colored by importance.

    Args:
        image: (H, W, 3) uint8, RGB.
        stages: for each stage the positions (N, 2) of its tokens, (x, y) in pixels of the photo,
            and their importance (N,), or None where the stage has none. Tokens outside of the photo
            are left out.

    Returns:
        uint8 RGB.

    Raises:
        ValueError: no stage, or shapes that do not fit.
    """
    if not stages:
        raise ValueError("stages: expected at least one, got none")
    size = image.shape[1], image.shape[0]
    small = scaled(image, CELL_WIDTH)
    pictures, titles = [], []
    for number, (positions, importance) in enumerate(stages, start=1):
        count = len(positions)
        if positions.shape != (count, 2) or (importance is not None and len(importance) != count):
            got = tuple(positions.shape), importance if importance is None else len(importance)
            raise ValueError(
                f"stages: stage {number}: expected positions (N, 2) and N importances, got {got}"
            )
        limits = positions.new_tensor(size)
        inside = ((positions >= 0) & (positions < limits)).all(-1)
        positions = positions[inside].cpu().numpy()
        title = f"stage {number}: {len(positions)} tokens"
        if importance is not None:
            importance = importance[inside].cpu().numpy()
            if len(importance):
                title += f", {importance.min():.2f} to {importance.max():.2f}"
        titles.append(title)
        pictures.append(_dots(small, size, positions, importance))
    return sheet([pictures], titles, [CAPTION], cell_width=CELL_WIDTH)


def _dots(
    image: np.ndarray,
    size: tuple[int, int],
    positions: np.ndarray,
    importance: np.ndarray | None,
) -> np.ndarray:
    """Draw dots at (x, y) in a photo of ``size`` (width, height) over its thumbnail ``image``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    scale = image.shape[1] / width
    dpi = 72  # a point is a pixel
    figure = Figure((image.shape[1] / dpi, image.shape[0] / dpi), dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.imshow(
        (image * DIMMED).astype(np.uint8), extent=(0, width, height, 0), aspect="auto", zorder=0
    )
    distance = scale * (height * width / max(1, len(positions))) ** 0.5
    axes.scatter(
        *positions.T,
        s=np.clip(DOT * distance, *DOT_PIXELS) ** 2,
        c=PLAIN if importance is None else importance,
        cmap=None if importance is None else COLORS,
        linewidths=0,
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
