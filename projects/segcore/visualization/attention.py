"""Drawings of the attention of queries, layer by layer, over their photo."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from segcore.data.panoptic_format import Category
from segcore.functional import bilinear
from segcore.inference import QueryAttention
from segcore.visualization.labels import drawable_name
from segcore.visualization.sheet import scaled, sheet

CELL_WIDTH = 260  # pixels of each picture
COLORS = "inferno"
COLORED = 0.75  # share of the color over the photo, which is grey there
DIMMED = 0.2  # brightness of the photo outside of a mask


def draw_attention(
    image: np.ndarray, queries: Sequence[QueryAttention], categories: Sequence[Category]
) -> np.ndarray:
    """Draw a row for each query: the photo, the final mask on it, and the attention of each layer.

    Attention goes from black to yellow, the largest value of the layer. If a query has
    fewer layers than another, the rest of its row is empty.

    Args:
        image: (H, W, 3) uint8, RGB.
        queries: their maps may have any size; they are stretched over the photo.
        categories: see :func:`categories_of`.

    Returns:
        uint8 RGB.

    Raises:
        ValueError: no query.
    """
    if not queries:
        raise ValueError("queries: expected at least one, got none")
    photo = scaled(image, CELL_WIDTH)
    grey = np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))
    depth = max(len(query.layers) for query in queries)
    empty = np.full_like(photo, 255)
    rows, captions = [], []
    for query in queries:
        layers = [_colored(grey, weights) for weights in query.layers]
        layers += [empty] * (depth - len(layers))
        rows.append([photo, _inside(photo, query.mask), *layers])
        name = drawable_name(categories[query.label])
        captions.append(f"query {query.query}: {name}, score {query.score:.2f}")
    titles = ["photo", "mask", *(f"layer {number}" for number in range(1, depth + 1))]
    return sheet(rows, titles, captions, cell_width=CELL_WIDTH)


def _colored(grey: np.ndarray, weights: Tensor) -> np.ndarray:
    """Draw a map (h, w) as colors over the photo."""
    import matplotlib

    values = _stretched(weights, grey.shape[:2])
    values = values / max(values.max(), np.finfo(values.dtype).tiny)
    colors = 255 * matplotlib.colormaps[COLORS](values)[:, :, :3]
    return (COLORED * colors + (1 - COLORED) * grey).astype(np.uint8)


def _inside(photo: np.ndarray, mask: Tensor) -> np.ndarray:
    """Darken the photo where the mask (h, w) is 0."""
    values = _stretched(mask, photo.shape[:2]).clip(0, 1)[:, :, None]
    return (photo * (DIMMED + (1 - DIMMED) * values)).astype(np.uint8)


def _stretched(values: Tensor, size: tuple[int, int]) -> np.ndarray:
    return bilinear(values[None].float().cpu(), size)[0].numpy()
