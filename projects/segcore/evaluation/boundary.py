"""Boundaries of segments (Boundary IoU, Cheng et al., CVPR 2021)."""

import math

import numpy as np

from segcore.opencv import cv2


def boundary_map(ids: np.ndarray, dilation_ratio: float = 0.02) -> np.ndarray:
    """Return the map with 0 wherever a pixel is no boundary of its segment.

    The boundary of a segment is what an erosion takes away by a square that reaches
    ``dilation_ratio`` of the image's diagonal far, at least a pixel; what lies outside of the image
    is another segment (Boundary IoU, Cheng et al., CVPR 2021, section 4).

    Args:
        ids: integers (H, W).
    """
    if not ids.size:
        return ids
    labels = ids.astype(np.float32)  # exact for 24 bits
    square = _square(ids.shape, dilation_ratio)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": -1.0}
    lowest, highest = cv2.erode(labels, square, **border), cv2.dilate(labels, square, **border)
    return np.where(lowest == highest, 0, ids)


def mask_boundary(mask: np.ndarray, dilation_ratio: float = 0.02) -> np.ndarray:
    """Return the pixels of a mask that are its boundary, see :func:`boundary_map`.

    Args:
        mask: bool (H, W).
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    # Outside of its box there is nothing, as outside of the image.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.ascontiguousarray(mask[box]).view(np.uint8)
    square = _square(mask.shape, dilation_ratio)
    inner = cv2.erode(inside, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    boundary = mask.copy()
    boundary[box] = inside > inner
    return boundary


def _square(size: tuple[int, int], dilation_ratio: float) -> np.ndarray:
    """Return the square that reaches as far as boundaries do on an image of ``size``."""
    side = 2 * max(1, round(dilation_ratio * math.hypot(*size))) + 1
    return np.ones((side, side), np.uint8)
