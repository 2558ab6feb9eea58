"""Colors of segments that differ from each other and from the photo below."""

import colorsys
from collections.abc import Sequence

import numpy as np

# Variants of a class's color: turn of the hue, and shift of the lightness.
HUES = (0.0, 0.06, -0.06, 0.12, -0.12, 0.25, -0.25)
LIGHTNESS = (0.0, 0.15, -0.15, 0.3, -0.3)
GOLDEN_TURN = (5**0.5 - 1) / 2
ID_LIGHTNESS = (0.5, 0.65, 0.4)
ID_SATURATION = 0.8
CLEAR = 90.0  # distance of two RGB colors that nobody mixes up
CLEAR_FROM_PHOTO = 180.0  # the same for a color that is blended with the photo below


def segment_colors(
    class_colors: Sequence[Sequence[int]],
    are_things: Sequence[bool],
    photo_colors: np.ndarray,
) -> np.ndarray:
    """Choose a color for each segment: stuff has that of its class, things a variant of it.

    The variant is the first that is clearly different from the photo below and from the things of
    that class before it, else the one that is most so.

    Args:
        class_colors: RGB in [0, 255], of each segment's class.
        are_things: whether that is a thing.
        photo_colors: (n, 3) mean color of the photo below each segment, see :func:`mean_colors`.

    Returns:
        (n, 3) uint8.
    """
    used: dict[tuple[int, ...], list[np.ndarray]] = {}
    colors = []
    for class_color, is_thing, below in zip(class_colors, are_things, photo_colors, strict=True):
        if not is_thing:
            colors.append(np.asarray(class_color, float))
            continue
        others = used.setdefault(tuple(class_color), [])
        variants = _variants(class_color)
        distances = np.linalg.norm(variants[:, None] - np.stack([below, *others]), axis=2)
        distances[:, 0] *= CLEAR / CLEAR_FROM_PHOTO
        colors.append(variants[np.minimum(distances.min(axis=1), CLEAR).argmax()])
        others.append(colors[-1])
    return np.asarray(colors).reshape(-1, 3).astype(np.uint8)


def id_colors(ids: Sequence[int]) -> np.ndarray:
    """Return a color for each id that does not depend on the picture: (n, 3) uint8.

    The hue turns by the golden angle from id to id, so that ids of a time have hues apart.
    """
    colors = [
        colorsys.hls_to_rgb(number * GOLDEN_TURN % 1, ID_LIGHTNESS[number % 3], ID_SATURATION)
        for number in ids
    ]
    return np.round(255 * np.array(colors).reshape(-1, 3)).astype(np.uint8)


def mean_colors(image: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Return the mean color of the photo below each segment, from a sample of pixels; else grey.

    Args:
        image: (H, W, 3) uint8.
        indices: (H, W) integers in [0, count], 0 = no segment.

    Returns:
        (count, 3) float.
    """
    step = max(1, round((indices.size / (1 << 18)) ** 0.5))
    sample, labels = image[::step, ::step].reshape(-1, 3), indices[::step, ::step].ravel()
    pixels = np.bincount(labels, minlength=count + 1)
    sums = [np.bincount(labels, sample[:, channel], count + 1) for channel in range(3)]
    means = np.stack(sums, 1) / np.maximum(pixels, 1)[:, None]
    return np.where(pixels[:, None] > 0, means, 128.0)[1:]


def _variants(color: Sequence[int]) -> np.ndarray:
    """Return variants of an RGB color in [0, 255], the nearest first: (n, 3)."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(np.asarray(color) / 255))
    return 255 * np.array(
        [
            colorsys.hls_to_rgb((hue + turn) % 1, min(max(lightness + shift, 0.1), 0.9), saturation)
            for turn in HUES
            for shift in LIGHTNESS
        ]
    )
