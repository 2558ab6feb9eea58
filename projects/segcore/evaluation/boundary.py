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
    # Corners between pixels, (H + 1, W + 1), at which not all four have one id. The square around a
    # pixel holds another segment where it holds such a corner inside.
    height, width = ids.shape
    corners = np.ones((height + 1, width + 1), np.uint8)
    mixed = corners[1:-1, 1:-1].view(bool)
    across = ids[:, 1:] != ids[:, :-1]
    np.logical_or(across[1:], across[:-1], out=mixed)
    mixed |= ids[1:, 1:] != ids[:-1, 1:]
    reach = _reach(ids.shape, dilation_ratio)
    inside = np.ones((2 * reach, 2 * reach), np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    near = cv2.dilate(corners, inside, anchor=(reach - 1, reach - 1), **border)
    return np.where(near[:height, :width].view(bool), ids, 0)


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
    side = 2 * _reach(mask.shape, dilation_ratio) + 1
    square = np.ones((side, side), np.uint8)
    inner = cv2.erode(inside, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    boundary = mask.copy()
    boundary[box] = inside > inner
    return boundary


def _reach(size: tuple[int, int], dilation_ratio: float) -> int:
    """Return the width of boundaries on an image of ``size``, in pixels."""
    return max(1, round(dilation_ratio * math.hypot(*size)))
