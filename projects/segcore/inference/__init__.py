"""Semantic, instance and panoptic results from class and mask logits."""

from segcore.inference.attention import QueryAttention, attention_maps
from segcore.inference.mask_wise import is_thing
from segcore.inference.masks import resize_mask_logits
from segcore.inference.merging import PanopticMerging
from segcore.inference.prediction import (
    InstancePrediction,
    MaskPrediction,
    PanopticPrediction,
    identity,
)
from segcore.inference.rating import MaskRating
from segcore.inference.results import ResultMaker
from segcore.inference.semantic import semantic_inference

__all__ = [
    "InstancePrediction",
    "MaskPrediction",
    "MaskRating",
    "PanopticMerging",
    "PanopticPrediction",
    "QueryAttention",
    "ResultMaker",
    "attention_maps",
    "identity",
    "is_thing",
    "resize_mask_logits",
    "semantic_inference",
]
