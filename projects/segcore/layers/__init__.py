"""Building blocks that several networks share."""

from segcore.layers.attention import MultiHeadAttention, attend
from segcore.layers.by_rows import by_rows, takes_rows
from segcore.layers.convolution import convolve, has_hooks
from segcore.layers.deformable_encoder import (
    DeformableEncoder,
    DeformableEncoderLayer,
    encoder_layers,
    run_layers,
)
from segcore.layers.levels import (
    flatten_levels,
    grid_reference_points,
    level_positions,
    pad_to,
    token_encodings,
)
from segcore.layers.linear import Linear, linear
from segcore.layers.mlp import MLP, FeedForward
from segcore.layers.ms_deform_attn import DeformAttnProjections, MSDeformAttn
from segcore.layers.position_encoding import SinePositionEncoding

__all__ = [
    "MLP",
    "DeformAttnProjections",
    "DeformableEncoder",
    "DeformableEncoderLayer",
    "FeedForward",
    "Linear",
    "MSDeformAttn",
    "MultiHeadAttention",
    "SinePositionEncoding",
    "attend",
    "by_rows",
    "convolve",
    "encoder_layers",
    "flatten_levels",
    "grid_reference_points",
    "has_hooks",
    "level_positions",
    "linear",
    "pad_to",
    "run_layers",
    "takes_rows",
    "token_encodings",
]
