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
    height, width = ids.shape
    distance = max(1, round(dilation_ratio * math.hypot(height, width)))
    labels = ids.astype(np.float32)  # exact for 24 bits
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": -1.0}
    lowest, highest = cv2.erode(labels, square, **border), cv2.dilate(labels, square, **border)
    return np.where(lowest == highest, 0, ids)
