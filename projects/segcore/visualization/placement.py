"""Placement of the names of segments, so that they hide neither small segments nor each other."""

from collections.abc import Sequence

import numpy as np

from segcore.opencv import cv2
from segcore.visualization.segment_map import Extent

SEARCHED_PIXELS = 128  # a segment is shrunk to such an edge when its inner points are searched
INNER_POINTS = 3
HIDDEN_SHARE = 0.3  # a name may cover so much of its segment, else it stands beside it

Box = tuple[int, int, int, int]  # left, top, right, bottom


def place_labels(
    indices: np.ndarray,
    segments: Sequence[Extent],
    are_things: Sequence[bool],
    sizes: Sequence[tuple[int, int]],
) -> list[tuple[int, int] | None]:
    """Choose the position of each segment's label.

    Small segments come first. A label stands at the widest part of its segment, or beside it
    if it would hide it.

    Args:
        indices: (H, W) integers, i + 1 for segment i.
        segments: their extents.
        are_things: whether they are things, which labels of others should not hide.
        sizes: (width, height) of each label.

    Returns:
        (left, top) of each label, inside of the picture; None if it is too large for it, or the
        segment has no pixels.
    """
    height, width = indices.shape
    thing_boxes = np.array(
        [
            _corners(segment.box) if is_thing else (0, 0, 0, 0)
            for segment, is_thing in zip(segments, are_things, strict=True)
        ]
    ).reshape(-1, 4)
    thing_areas = (thing_boxes[:, 2] - thing_boxes[:, 0]) * (thing_boxes[:, 3] - thing_boxes[:, 1])
    labels = np.zeros((len(segments), 4), int)  # those placed; others are empty
    corners: list[tuple[int, int] | None] = [None] * len(segments)
    for index in sorted(range(len(segments)), key=lambda index: segments[index].area):
        (label_width, label_height), segment = sizes[index], segments[index]
        if segment.area == 0 or label_width > width or label_height > height:
            continue
        label_area = label_width * label_height
        # Large things have room for the names of others.
        small = (thing_areas < 4 * label_area) & (np.arange(len(segments)) != index)
        candidates = _candidates(indices, index, segment, sizes[index])
        candidates[:, 0] = candidates[:, 0].clip(0, width - label_width)
        candidates[:, 1] = candidates[:, 1].clip(0, height - label_height)
        boxes = np.concatenate((candidates, candidates + sizes[index]), axis=1)
        cost = 2 * _overlaps(boxes, labels).sum(1) + _overlaps(boxes, thing_boxes[small]).sum(1)
        best = int(cost.argmin())
        labels[index] = boxes[best]
        corners[index] = (int(boxes[best, 0]), int(boxes[best, 1]))
    return corners


def _candidates(
    indices: np.ndarray, index: int, segment: Extent, size: tuple[int, int]
) -> np.ndarray:
    """Return corners (left, top) for a label, the best first: (n, 2)."""
    x, y, width, height = segment.box
    label_width, label_height = size
    window = indices[y : y + height, x : x + width]
    inside = _inner_points(window, index + 1) + np.array([x, y])
    inside -= np.array([label_width // 2, label_height // 2])
    gap = max(1, label_height // 8)
    center_x, center_y = x + (width - label_width) // 2, y + (height - label_height) // 2
    beside = np.array(
        [
            (center_x, y - label_height - gap),
            (center_x, y + height + gap),
            (x + width + gap, center_y),
            (x - label_width - gap, center_y),
            (center_x, y - 2 * (label_height + gap)),
            (center_x, y + height + label_height + 2 * gap),
        ]
    )
    hides = label_width * label_height > HIDDEN_SHARE * segment.area
    return np.concatenate((beside, inside) if hides else (inside, beside))


def _inner_points(window: np.ndarray, value: int) -> np.ndarray:
    """Return points (x, y) of a window where it has ``value``, far from other values: (n, 2)."""
    step = max(1, -(-max(window.shape) // SEARCHED_PIXELS))
    mask = np.pad((window[::step, ::step] == value).astype(np.uint8), 1)
    distances = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    points = []
    for _ in range(INNER_POINTS):
        row, column = np.unravel_index(distances.argmax(), distances.shape)
        if points and distances[row, column] <= 0:
            break
        points.append(((column - 1) * step, (row - 1) * step))
        radius = int(2 * distances[row, column]) + 1
        cv2.circle(distances, (int(column), int(row)), radius, 0, -1)
    return np.array(points)


def _corners(box: Sequence[int]) -> Box:
    x, y, width, height = box
    return x, y, x + width, y + height


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the areas in common of boxes (n, 4) and others (m, 4): (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(2)
