"""Results drawn over their photo, by Detectron2's Visualizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

from segcore.data.panoptic_format import Category

OPACITY = 0.55


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
    ids = torch.as_tensor(panoptic).cpu().to(torch.int64)
    copies = [dict(segment) for segment in segments]  # the Visualizer writes into them
    drawing = _visualizer(image, categories, scale)
    return drawing.draw_panoptic_seg(ids, copies, area_threshold=0, alpha=OPACITY).get_image()


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
