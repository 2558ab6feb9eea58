"""Augmentation of EoMT, with the pixels of torchvision: color, flip, scale, crop of one size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torchvision.transforms.v2 import functional as F

from eomt.config import input_size

BRIGHTNESS = (1 - 32 / 255, 1 + 32 / 255)
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = (-18 / 360, 18 / 360)  # turns


def fixed_size_crops(cfg: CfgNode, *, ignore_label: int = 0) -> list[T.Augmentation]:
    """Change colors (``INPUT.COLOR_AUG_SSD``), flip, resize by a random scale, crop and pad.

    Scales are ``INPUT.MIN_SCALE`` to ``MAX_SCALE`` of the size at which an image fits the crop,
    which has the size of the network's input.

    Args:
        ignore_label: of the padding of semantic maps.
    """
    size = input_size(cfg)
    flips = {"none": [], "horizontal": [T.RandomFlip()]}
    flips["vertical"] = [T.RandomFlip(horizontal=False, vertical=True)]
    return [
        *([ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.COLOR_AUG_SSD else []),
        *flips[cfg.INPUT.RANDOM_FLIP],
        ScaleJitter(size, (cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE)),
        RandomCropWithPadding(size, ignore_label),
    ]


class ColorJitter(T.Augmentation):
    """Brightness, then contrast, saturation and hue, or saturation, hue and contrast.

    Each has a probability of 1/2; factors and turns are torchvision's, uint8 between the steps.

    Args:
        image_format: "RGB" or "BGR".
    """

    def __init__(self, image_format: str = "RGB"):
        super().__init__()
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> "ColorTransform":
        contrast = self._draw(F.adjust_contrast, CONTRAST)
        others = self._draw(F.adjust_saturation, SATURATION) + self._draw(F.adjust_hue, HUE)
        steps = contrast + others if self._rand_range() < 0.5 else others + contrast
        return ColorTransform(
            self._draw(F.adjust_brightness, BRIGHTNESS) + steps, self.image_format
        )

    def _draw(self, change: Callable, bounds: tuple[float, float]) -> list[tuple[Callable, float]]:
        return [(change, float(self._rand_range(*bounds)))] if self._rand_range() < 0.5 else []


@dataclass
class ColorTransform(T.Transform):
    """Changes of color, one after the other; geometry is untouched.

    Args:
        steps: pairs of a function of torchvision and its number.
    """

    steps: list[tuple[Callable, float]]
    image_format: str = "RGB"

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 in ``image_format`` -> the same."""
        channels = slice(None, None, -1 if self.image_format == "BGR" else 1)
        pixels = torch.from_numpy(image[..., channels].copy()).permute(2, 0, 1)
        for change, value in self.steps:
            pixels = change(pixels, value)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., channels])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation


class ScaleJitter(T.Augmentation):
    """Resize to a random multiple of the size at which an image fits into ``size`` (H, W).

    As officially, the fit compares the width with the height of the image and the other way round,
    which makes no difference where ``size`` is a square.
    """

    def __init__(self, size: tuple[int, int], scales: tuple[float, float]):
        super().__init__()
        self.size = size
        self.scales = scales

    def get_transform(self, image: np.ndarray) -> "ResizeTransform":
        height, width = image.shape[:2]
        fit = min(self.size[1] / height, self.size[0] / width)
        factor = np.float32(self._rand_range(*self.scales)) * np.float32(fit)
        return ResizeTransform(max(1, int(height * factor)), max(1, int(width * factor)))


@dataclass
class ResizeTransform(T.Transform):
    """Resize to (height, width): images bilinear with antialiasing, segmentations nearest."""

    height: int
    width: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        pixels = F.resize(pixels, [self.height, self.width], antialias=True)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C), of any type -> the same at the new size."""
        # The rule of torch: the floor of the coordinate, scaled in float32.
        rows, columns = (
            np.minimum(
                (np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(np.int64), old - 1
            )
            for new, old in zip((self.height, self.width), segmentation.shape, strict=False)
        )
        return segmentation[rows[:, None], columns]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        raise NotImplementedError("targets of EoMT are masks")


class RandomCropWithPadding(T.Augmentation):
    """Pad with black at the right and the bottom to ``size`` (H, W), and crop it anywhere.

    Args:
        ignore_label: padding of segmentations.
    """

    def __init__(self, size: tuple[int, int], ignore_label: int = 0):
        super().__init__()
        self.size = size
        self.ignore_label = ignore_label

    def get_transform(self, image: np.ndarray) -> "CropTransform":
        top, left = (
            int(self._rand_range(max(0, side - crop) + 1))
            for side, crop in zip(image.shape, self.size, strict=False)
        )
        return CropTransform(top, left, self.size, self.ignore_label)


@dataclass
class CropTransform(T.Transform):
    """Cut ``size`` (H, W) from (top, left) on, with padding where the image ends."""

    top: int
    left: int
    size: tuple[int, int]
    ignore_label: int = 0

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return self._crop(image, 0)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._crop(segmentation, self.ignore_label)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords - np.array([self.left, self.top])

    def _crop(self, array: np.ndarray, padding: int) -> np.ndarray:
        height, width = self.size
        part = array[self.top : self.top + height, self.left : self.left + width]
        result = np.full((height, width, *array.shape[2:]), padding, dtype=array.dtype)
        result[: part.shape[0], : part.shape[1]] = part
        return result
