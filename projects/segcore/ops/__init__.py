"""Operators: public functions with compiled kernels and twins in plain PyTorch.

Needs PyTorch and nothing else.
"""

from ._operator import decompositions
from .add_layer_norm import add_layer_norm_, add_layer_norm_reference
from .attention import attention, attention_reference
from .balanced_clusters import balanced_clusters, balanced_clusters_reference
from .cluster_attention import (
    cluster_attention,
    cluster_attention_reference,
    neighborhood_attention_reference,
)
from .cluster_neighborhood import ClusterNeighborhood
from .group_norm import group_norm_, group_norm_reference
from .inverse_distance import inverse_distance_weights
from .knn import knn, knn_reference
from .mask_inference import MaskInference, mask_inference, mask_inference_reference
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_reference
from .ms_deform_attn_with_logits import (
    ms_deform_attn_with_logits,
    ms_deform_attn_with_logits_reference,
)
from .neighborhood_merge import neighborhood_merge, neighborhood_merge_reference
from .offset_features import NUM_OFFSET_FEATURES
from .point_deform_attn import point_deform_attn, point_deform_attn_reference
from .point_gather import point_gather, point_gather_reference
from .take import take
from .window_attention import window_attention, window_attention_reference
from .winograd_conv2d import winograd_conv2d, winograd_conv2d_reference

__all__ = [
    "NUM_OFFSET_FEATURES",
    "ClusterNeighborhood",
    "MaskInference",
    "add_layer_norm_",
    "add_layer_norm_reference",
    "attention",
    "attention_reference",
    "balanced_clusters",
    "balanced_clusters_reference",
    "cluster_attention",
    "cluster_attention_reference",
    "decompositions",
    "group_norm_",
    "group_norm_reference",
    "inverse_distance_weights",
    "knn",
    "knn_reference",
    "mask_inference",
    "mask_inference_reference",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "ms_deform_attn_with_logits",
    "ms_deform_attn_with_logits_reference",
    "neighborhood_attention_reference",
    "neighborhood_merge",
    "neighborhood_merge_reference",
    "point_deform_attn",
    "point_deform_attn_reference",
    "point_gather",
    "point_gather_reference",
    "take",
    "window_attention",
    "window_attention_reference",
    "winograd_conv2d",
    "winograd_conv2d_reference",
]
