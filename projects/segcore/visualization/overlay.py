"""Results drawn over their photo, by Detectron2's Visualizer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from segcore.data.panoptic_format import Category

OPACITY = 0.55
EDGE_COLOR = (1.0, 1.0, 0.94)
# Towards white (1) or black (0), and how far, for the things of a class one after the other.
SHADES = ((1.0, 0.0), (1.0, 0.35), (0.0, 0.3), (1.0, 0.6), (0.0, 0.5))


def draw_panoptic(
    image: np.ndarray,
    panoptic: torch.Tensor | np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    scale: float = 1.0,
) -> np.ndarray:
    """Segments over the photo: stuff in its class's colour, every thing in a shade of its own.

    Args:
        image: (H, W, 3) uint8, RGB.
        panoptic: (H, W) integer segment ids.
        segments: Detectron2's ``segments_info``: "id", "category_id" (contiguous), "isthing".
        categories: see :func:`categories_of`.
        scale: of the result in comparison with the photo.

    Returns:
        uint8 RGB, (H, W, 3) times ``scale``.
    """
    ids = torch.as_tensor(panoptic).cpu().numpy()
    drawing = _visualizer(image, categories, scale)
    # Not the Visualizer's draw_panoptic_seg, which fills the holes of things and colours them at
    # random. Large things lie under small ones.
    masks = [(segment, ids == segment["id"]) for segment in segments]
    masks.sort(key=lambda pair: (pair[0]["isthing"], -np.count_nonzero(pair[1])))
    things_seen = Counter()
    for segment, mask in masks:
        category = categories[segment["category_id"]]
        color = np.array(category["color"]) / 255
        if segment["isthing"]:
            color = _shade(color, things_seen[category["name"]])
            things_seen[category["name"]] += 1
        drawing.draw_binary_mask(
            mask, color, edge_color=EDGE_COLOR, text=category["name"], alpha=OPACITY
        )
    return drawing.output.get_image()


def _shade(color: np.ndarray, number: int) -> np.ndarray:
    """The colour (RGB in [0, 1]) of the ``number``-th thing of a class, lighter or darker."""
    target, strength = SHADES[number % len(SHADES)]
    return color + strength * (target - color)


def draw_instances(
    image: np.ndarray, instances: Instances, categories: Sequence[Category], scale: float = 1.0
) -> np.ndarray:
    """Masks, classes and scores of instances (on any device) over the photo."""
    drawing = _visualizer(image, categories, scale)
    instances = instances.to("cpu")
    if instances.has("pred_masks"):
        instances.pred_masks = instances.pred_masks > 0
    return drawing.draw_instance_predictions(instances).get_image()


def draw_semantic(
    image: np.ndarray,
    labels: torch.Tensor | np.ndarray,
    categories: Sequence[Category],
    scale: float = 1.0,
) -> np.ndarray:
    """A map of contiguous classes (H, W) over the photo; labels of no class stay undrawn."""
    drawing = _visualizer(image, categories, scale)
    labels = torch.as_tensor(labels).cpu().numpy()
    return drawing.draw_sem_seg(labels, area_threshold=0, alpha=OPACITY).get_image()


def _visualizer(image: np.ndarray, categories: Sequence[Category], scale: float) -> Visualizer:
    names = [category["name"] for category in categories]
    colors = [category["color"] for category in categories]
    # It looks up things and stuff in lists of their own, by the one contiguous id.
    metadata = Metadata(name="drawing").set(
        thing_classes=names, stuff_classes=names, thing_colors=colors, stuff_colors=colors
    )
    return Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)
