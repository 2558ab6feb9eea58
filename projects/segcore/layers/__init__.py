"""Building blocks that several networks share."""

from segcore.layers.attention import MultiHeadAttention
from segcore.layers.deformable_encoder import DeformableEncoder, DeformableEncoderLayer
from segcore.layers.levels import flatten_levels, grid_reference_points, level_positions, pad_to
from segcore.layers.mlp import MLP, FeedForward
from segcore.layers.ms_deform_attn import MSDeformAttn
from segcore.layers.position_encoding import SinePositionEncoding

__all__ = [
    "MLP",
    "DeformableEncoder",
    "DeformableEncoderLayer",
    "FeedForward",
    "MSDeformAttn",
    "MultiHeadAttention",
    "SinePositionEncoding",
    "flatten_levels",
    "grid_reference_points",
    "level_positions",
    "pad_to",
]
