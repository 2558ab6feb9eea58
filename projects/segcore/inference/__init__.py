"""From class and mask logits to semantic, instance and panoptic results."""

from segcore.inference.instance import instance_inference
from segcore.inference.masks import masks_to_boxes, resize_mask_logits
from segcore.inference.panoptic import panoptic_inference
from segcore.inference.semantic import semantic_inference

__all__ = [
    "instance_inference",
    "masks_to_boxes",
    "panoptic_inference",
    "resize_mask_logits",
    "semantic_inference",
]
