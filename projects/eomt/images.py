"""Sizes of images for a network of one input size: resizing, padding, windows."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def fit_inside(image: Tensor, size: Size) -> Tensor:
    """Resize an image (C, H, W) that is larger than ``size`` to fit, its proportions kept."""
    height, width = image.shape[-2:]
    if height <= size[0] and width <= size[1]:
        return image
    return _resized(image, min(size[0] / height, size[1] / width))


def fit_short_side(image: Tensor, side: int) -> Tensor:
    """Resize an image (C, H, W) so that its shorter side is ``side``, its proportions kept."""
    height, width = image.shape[-2:]
    if min(height, width) == side:
        return image
    return _resized(image, max(side / height, side / width))


def pad_to_size(image: Tensor, size: Size) -> Tensor:
    """Pad (C, H, W) with 0 at the right and the bottom."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, size[1] - width, 0, size[0] - height))


def window_starts(length: int, side: int) -> list[int]:
    """Return the first pixels of windows of ``side`` pixels that cover a longer axis evenly."""
    count = math.ceil(length / side)
    excess = count * side - length
    step = side - excess / (count - 1) if excess > 0 else side
    return [int(index * step) for index in range(count)]


def cut_windows(image: Tensor, side: int) -> Tensor:
    """Cut an image whose shorter side is ``side`` into squares: (C, H, W) -> (m, C, side, side)."""
    height, width = image.shape[-2:]
    axis = 1 if height > width else 2
    starts = window_starts(image.shape[axis], side)
    return torch.stack([image.narrow(axis, start, side) for start in starts])


def stitch_windows(windows: Tensor, size: Size) -> Tensor:
    """Average the maps (m, C, side, side) of the windows of an image where they overlap.

    Args:
        size: (H, W) of the image.

    Returns:
        (C, H, W).
    """
    axis, side = (1 if size[0] > size[1] else 2), windows.shape[-1]
    total = windows.new_zeros((windows.shape[1], *size))
    count = windows.new_zeros((1, *size))
    for window, start in zip(windows, window_starts(size[axis - 1], side), strict=True):
        total.narrow(axis, start, side).add_(window)
        count.narrow(axis, start, side).add_(1)
    return total / count


def _resized(image: Tensor, factor: float) -> Tensor:
    """Resize uint8 or float (C, H, W) bilinearly with antialiasing, to float."""
    size = tuple(max(1, round(side * factor)) for side in image.shape[-2:])
    if not image.is_floating_point():
        image = image.float()
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
