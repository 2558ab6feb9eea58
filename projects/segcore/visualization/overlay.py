"""Drawings of results over their photo, in proportion to its size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Instances

from segcore.data.panoptic_format import Category
from segcore.inference.run_lengths import mask_areas
from segcore.opencv import cv2
from segcore.visualization.colors import mean_colors, segment_colors
from segcore.visualization.labels import drawable_name
from segcore.visualization.painting import blend, label_picture, outline
from segcore.visualization.placement import place_labels
from segcore.visualization.segment_map import SegmentMap, strips

OPACITY = 0.55
LABEL_OPACITY = 0.8
EDGE_COLOR = (255, 255, 240)
SHADOW_COLOR = (30, 30, 30)
# Share of the root of the picture's area, and least number of pixels.
LINE_WIDTH = 1 / 700, 1
FONT_SIZE = 1 / 55, 11


def draw_panoptic(
    image: np.ndarray,
    panoptic: torch.Tensor | np.ndarray | SegmentMap,
    segments: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    scale: float = 1.0,
    *,
    colors: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw segments over the photo: stuff in its class's color, every thing in a variant of it.

    Args:
        image: (H, W, 3) uint8, RGB.
        panoptic: (H, W) integer segment ids, or the map of ``segments`` that is made of them.
        segments: Detectron2's ``segments_info``: "id", "category_id" (contiguous), "isthing".
        categories: see :func:`categories_of`.
        scale: size of the result relative to the photo.
        colors: (n, 3) uint8 of the segments; by default they are chosen to fit the photo.
        names: labels of the segments; by default the names of their classes.

    Returns:
        uint8 RGB, (H, W, 3) times ``scale``.
    """
    if not isinstance(panoptic, SegmentMap):
        panoptic = SegmentMap.from_ids(_array(panoptic), [segment["id"] for segment in segments])
    shown = [categories[segment["category_id"]] for segment in segments]
    names = names or [drawable_name(category) for category in shown]
    are_things = [bool(segment["isthing"]) for segment in segments]
    return _draw(image, panoptic, shown, names, are_things, scale, colors)


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    categories: Sequence[Category],
    scale: float = 1.0,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Draw masks, classes and scores of instances over the photo, small masks over large ones.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: on any device, with pred_classes, scores, and pred_masks (n, H, W) or
            pred_masks_rle, run lengths as pycocotools has them.
        categories: see :func:`categories_of`.
        scale: size of the result relative to the photo.
        colors: (n, 3) uint8 of the instances; by default they are chosen to fit the photo.

    Returns:
        uint8 RGB, (H, W, 3) times ``scale``.
    """
    areas = instance_areas(instances)
    dtype = np.uint8 if len(areas) < 255 else np.uint16
    indices = np.zeros(image.shape[:2], dtype)
    order = np.argsort(-areas, kind="stable")
    for index, mask in zip(order, _masks(instances, order), strict=True):
        indices[mask] = index + 1
    shown = [categories[label] for label in instances.pred_classes.tolist()]
    names = [
        f"{drawable_name(category)} {score:.0%}"
        for category, score in zip(shown, instances.scores.tolist(), strict=True)
    ]
    segment_map = SegmentMap(indices, len(shown))
    return _draw(image, segment_map, shown, names, [True] * len(shown), scale, colors)


def draw_semantic(
    image: np.ndarray,
    labels: torch.Tensor | np.ndarray,
    categories: Sequence[Category],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw a map of contiguous classes (H, W) over the photo; labels of no class stay undrawn."""
    labels = _array(labels)
    present = np.zeros(len(categories) + 1, bool)
    for rows in strips(labels.shape):
        known = labels[rows].astype(np.intp)
        present[np.clip(known, -1, len(categories))] = True
    classes = np.flatnonzero(present[:-1])
    shown = [categories[label] for label in classes]
    names = [drawable_name(category) for category in shown]
    segment_map = SegmentMap.from_ids(labels, classes.tolist())
    return _draw(image, segment_map, shown, names, [False] * len(shown), scale)


def instance_areas(instances: Instances) -> np.ndarray:
    """Return the areas in pixels of instances with pred_masks or pred_masks_rle: (n,)."""
    if instances.has("pred_masks_rle"):
        return mask_areas(instances.pred_masks_rle)
    return np.array([int((mask > 0).sum()) for mask in instances.pred_masks], np.int64)


def _masks(instances: Instances, order: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield masks (H, W) bool in ``order``."""
    for index in order:
        if instances.has("pred_masks_rle"):
            yield mask_util.decode(instances.pred_masks_rle[index]).view(bool)
        else:
            yield (instances.pred_masks[index] > 0).cpu().numpy()


def _draw(
    image: np.ndarray,
    segment_map: SegmentMap,
    categories: Sequence[Category],
    names: Sequence[str],
    are_things: Sequence[bool],
    scale: float,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Draw segments, the classes of which are ``categories``."""
    image = np.array(image, order="C")
    if scale != 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        segment_map = segment_map.resized(*image.shape[1::-1])
    if not categories:
        return image
    indices = segment_map.indices
    if colors is None:
        colors = segment_colors(
            [category["color"] for category in categories],
            are_things,
            mean_colors(image, indices, len(categories)),
        )
    blend(image, indices, colors, OPACITY)
    width = _proportional(image, *LINE_WIDTH)
    if any(are_things):
        only_things = np.array([0, *(np.arange(1, len(names) + 1) * are_things)], indices.dtype)
        outline(image, only_things[indices], 3 * width, SHADOW_COLOR)
    outline(image, indices, width, EDGE_COLOR)
    font_size = _proportional(image, *FONT_SIZE)
    labels = [
        label_picture(name, font_size, color) for name, color in zip(names, colors, strict=True)
    ]
    sizes = [label.shape[1::-1] for label in labels]
    corners = place_labels(indices, segment_map.extents, are_things, sizes)
    for label, corner in zip(labels, corners, strict=True):
        if corner is not None:
            left, top = corner
            below = image[top : top + label.shape[0], left : left + label.shape[1]]
            below[:] = cv2.addWeighted(below, 1 - LABEL_OPACITY, label, LABEL_OPACITY, 0)
    return image


def _proportional(image: np.ndarray, share: float, least: int) -> int:
    return max(least, round(share * (image.shape[0] * image.shape[1]) ** 0.5))


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(values).cpu().numpy()
