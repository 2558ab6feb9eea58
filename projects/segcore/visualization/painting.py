"""Painting of segments over a photo, strip by strip."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segcore.opencv import cv2
from segcore.text import printable
from segcore.visualization.labels import font_for
from segcore.visualization.segment_map import strips

LABEL_BACKGROUND = 0  # of its three bytes
LABEL_BRIGHTNESS = 170  # least of its text
MAX_LABEL_LENGTH = 40  # characters


def blend(image: np.ndarray, indices: np.ndarray, colors: np.ndarray, opacity: float) -> None:
    """Blend the color of each segment into ``image``, in place.

    Args:
        image: (H, W, 3) uint8, contiguous.
        indices: (H, W) integers, 0 = no segment, see ``segment_map.SegmentMap``.
        colors: (n, 3) uint8, of the segments 1, 2, ...
        opacity: share of the color.
    """
    table = np.concatenate((np.zeros((1, 3), np.uint8), colors))
    for rows in strips(image.shape):
        strip, segments = image[rows], indices[rows]
        layer = table[segments]
        np.copyto(layer, strip, where=(segments == 0)[:, :, None])
        cv2.addWeighted(strip, 1 - opacity, layer, opacity, 0, dst=strip)


def outline(image: np.ndarray, indices: np.ndarray, thickness: int, color: Sequence[int]) -> None:
    """Draw lines between neighboring segments into ``image``, in place.

    Args:
        image: (H, W, 3) uint8, contiguous.
        indices: (H, W) uint8 or uint16; a line runs where it changes.
        thickness: width of the lines in pixels.
        color: three bytes.
    """
    window = np.ones((thickness + 1, thickness + 1), np.uint8)
    for rows in strips(image.shape):
        top = max(0, rows.start - thickness)
        around = indices[top : rows.stop + thickness]
        edges = cv2.dilate(around, window) != cv2.erode(around, window)
        edges = edges[rows.start - top :][: rows.stop - rows.start]
        np.copyto(image[rows], np.uint8(color), where=edges[:, :, None])


def label_picture(text: str, font_size: int, color: Sequence[int]) -> np.ndarray:
    """Write one line of ``text`` in a light tone of ``color`` on black: (h, w, 3) uint8."""
    text = printable(text, MAX_LABEL_LENGTH)
    font = font_for(text, font_size)
    left, top, right, bottom = font.getbbox(text)
    padding = max(2, font_size // 4)
    size = int(right - left) + 2 * padding, int(bottom - top) + 2 * padding
    picture = Image.new("RGB", size, (LABEL_BACKGROUND,) * 3)
    position = padding - left, padding - top
    ImageDraw.Draw(picture).text(position, text, fill=_lightened(color), font=font)
    return np.asarray(picture)


def _lightened(color: Sequence[int]) -> tuple[int, ...]:
    color = np.asarray(color, float)
    brightness = color @ (0.299, 0.587, 0.114)
    share = max(0.0, (LABEL_BRIGHTNESS - brightness) / (255 - brightness + 1e-6))
    return tuple((color + share * (255 - color)).astype(int).tolist())
