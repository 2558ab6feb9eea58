"""Photometric distortion of SSD (Liu et al., SSD: Single Shot MultiBox Detector, section 2.2)."""

import random
from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T

from segcore.opencv import cv2

MAX_BRIGHTNESS = 32
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
# Half degrees: OpenCV's 8-bit hue has 180 steps.
MAX_HUE = 18
HUE_STEPS = 180

_TO_HSV_AND_BACK = {
    "RGB": ("COLOR_RGB2HSV", "COLOR_HSV2RGB"),
    "BGR": ("COLOR_BGR2HSV", "COLOR_HSV2BGR"),
}
_LEVELS = np.arange(256, dtype=np.float32)


class RandomSSDColor(T.Augmentation):
    """Brightness, contrast, saturation and hue, each with probability 1/2, drawn from ``random``.

    Args:
        image_format: "RGB" or "BGR".
    """

    def __init__(self, image_format: str = "RGB"):
        super().__init__()
        if image_format not in _TO_HSV_AND_BACK:
            raise ValueError(
                f"INPUT.FORMAT: the color augmentation (INPUT.COLOR_AUG_SSD) needs 'RGB' or "
                f"'BGR', got {image_format!r}"
            )
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> "SSDColorTransform":
        if image.dtype != np.uint8:
            raise TypeError(f"image: expected uint8, got {image.dtype}")
        drawn = {"brightness": _maybe(random.uniform, -MAX_BRIGHTNESS, MAX_BRIGHTNESS)}
        contrast_first = bool(random.randrange(2))
        # The order of the draws is the order of application.
        if contrast_first:
            drawn["contrast"] = _maybe(random.uniform, *CONTRAST)
        drawn["saturation"] = _maybe(random.uniform, *SATURATION)
        drawn["hue"] = _maybe(random.randint, -MAX_HUE, MAX_HUE)
        if not contrast_first:
            drawn["contrast"] = _maybe(random.uniform, *CONTRAST)
        return SSDColorTransform(
            image_format=self.image_format, contrast_first=contrast_first, **drawn
        )


def _maybe(draw, low, high):
    return draw(low, high) if random.randrange(2) else None


@dataclass
class SSDColorTransform(T.Transform):
    """Fixed changes of color; None leaves that property alone. Geometry is untouched.

    Every step ends in uint8: clipped to [0, 255], then truncated. Each is therefore a function of
    256 levels, applied by table.

    Args:
        brightness: added to every channel.
        contrast: factor of every channel.
        saturation: factor of S in HSV.
        hue: added to H in HSV, in half degrees.
        contrast_first: contrast before saturation and hue, otherwise after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True
    image_format: str = "RGB"

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 in ``image_format`` -> the same, a new array if anything changes."""
        image = self._shift_brightness(image)
        if self.contrast_first:
            image = self._scale_contrast(image)
        image = self._shift_hue(self._scale_saturation(image))
        return image if self.contrast_first else self._scale_contrast(image)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def _shift_brightness(self, image: np.ndarray) -> np.ndarray:
        return image if self.brightness is None else cv2.LUT(image, _table(shift=self.brightness))

    def _scale_contrast(self, image: np.ndarray) -> np.ndarray:
        return image if self.contrast is None else cv2.LUT(image, _table(factor=self.contrast))

    def _scale_saturation(self, image: np.ndarray) -> np.ndarray:
        if self.saturation is None:
            return image
        return self._by_hsv_tables(image, saturation=_table(factor=self.saturation))

    def _shift_hue(self, image: np.ndarray) -> np.ndarray:
        if self.hue is None:
            return image
        shifted = (_LEVELS.astype(np.int64) + self.hue) % HUE_STEPS
        return self._by_hsv_tables(image, hue=shifted.astype(np.uint8))

    def _by_hsv_tables(self, image: np.ndarray, **tables: np.ndarray) -> np.ndarray:
        to_hsv, back = (getattr(cv2, name) for name in _TO_HSV_AND_BACK[self.image_format])
        same = _LEVELS.astype(np.uint8)
        channels = [tables.get(name, same) for name in ("hue", "saturation", "value")]
        table = np.stack(channels, axis=-1)[None]
        return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, to_hsv), table), back)


def _table(factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """``level * factor + shift`` of every 8-bit level in float32, clipped, truncated to uint8."""
    return np.clip(_LEVELS * factor + shift, 0, 255).astype(np.uint8)
