"""From class and mask logits to semantic, instance and panoptic results."""

from segcore.inference.attention import QueryAttention, attention_maps
from segcore.inference.instance import instance_inference, sorted_instances
from segcore.inference.mask_wise import RatedMasks, is_thing
from segcore.inference.masks import bilinear, masks_to_boxes, resize_mask_logits
from segcore.inference.merging import PanopticMerging
from segcore.inference.panoptic import panoptic_inference
from segcore.inference.prediction import (
    InstancePrediction,
    MaskPrediction,
    MaskRating,
    PanopticPrediction,
)
from segcore.inference.results import ResultMaker
from segcore.inference.semantic import semantic_inference, semantic_scores

__all__ = [
    "InstancePrediction",
    "MaskPrediction",
    "MaskRating",
    "PanopticMerging",
    "PanopticPrediction",
    "QueryAttention",
    "RatedMasks",
    "ResultMaker",
    "attention_maps",
    "bilinear",
    "instance_inference",
    "is_thing",
    "masks_to_boxes",
    "panoptic_inference",
    "resize_mask_logits",
    "semantic_inference",
    "semantic_scores",
    "sorted_instances",
]
