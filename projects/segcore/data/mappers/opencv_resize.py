"""Resizing as mmdetection does it, with OpenCV, for the systems that were published with it.

Unlike Detectron2's, which is Pillow's, its bilinear interpolation does not smooth when an image
shrinks, and its "nearest" takes the pixel floor(i * old / new).
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from segcore.opencv import cv2

SAMPLING = ("choice", "range")


class OpenCVResizeTransform(T.Transform):
    """Resize (h, w) to (new_h, new_w): images bilinear, segmentations to the nearest pixel."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(h, w) or (h, w, C), uint8 or floating point."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(h, w) or (h, w, C), of integers or floating point."""
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(n, 2) as (x, y), floating point; in place."""
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def inverse(self) -> T.Transform:
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w)

    def _resize(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        if pixels.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"expected an image of {self.h}x{self.w} (height x width), "
                f"got an array of shape {pixels.shape}"
            )
        resized = cv2.resize(
            np.ascontiguousarray(pixels), (self.new_w, self.new_h), interpolation=interpolation
        )
        return resized.reshape(self.new_h, self.new_w, *pixels.shape[2:])


class OpenCVResizeShortestEdge(T.Augmentation):
    """Resize the shorter edge to a drawn length, unless the longer one then exceeds ``max_size``.

    Both edges are multiplied by one factor and rounded.

    Args:
        short_edge_lengths: with "choice" the lengths to draw from, with "range" the first and the
            last of them; 0 leaves the image as it is.
        max_size: of the longer edge.
        sampling: "choice" or "range".
    """

    def __init__(self, short_edge_lengths: Sequence[int], max_size: int, sampling: str = "choice"):
        super().__init__()
        if sampling not in SAMPLING or not short_edge_lengths:
            raise ValueError(
                f"expected edge lengths and a sampling of {SAMPLING} (INPUT.MIN_SIZE_TRAIN, "
                f"INPUT.MIN_SIZE_TRAIN_SAMPLING), got {short_edge_lengths} and {sampling!r}"
            )
        self.short_edge_lengths = short_edge_lengths
        self.max_size = max_size
        self.sampling = sampling

    def get_transform(self, image: np.ndarray) -> T.Transform:
        lengths = self.short_edge_lengths
        # From the global generator, as all geometry.
        if self.sampling == "range":
            length = np.random.randint(lengths[0], lengths[-1] + 1)  # noqa: NPY002
        else:
            length = np.random.choice(lengths)  # noqa: NPY002
        if length == 0:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        factor = min(self.max_size / max(height, width), length / min(height, width))
        new_height, new_width = (max(1, int(side * factor + 0.5)) for side in (height, width))
        return OpenCVResizeTransform(height, width, new_height, new_width)
