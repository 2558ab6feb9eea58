"""Operators: a typed public function each, with a compiled kernel and a twin in plain PyTorch.

Needs PyTorch and nothing else.
"""

from .cluster_attention import (
    cluster_attention,
    cluster_attention_reference,
    neighbourhood_attention_reference,
)
from .cluster_neighbourhood import ClusterNeighbourhood
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

__all__ = [
    "ClusterNeighbourhood",
    "cluster_attention",
    "cluster_attention_reference",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "neighbourhood_attention_reference",
]
