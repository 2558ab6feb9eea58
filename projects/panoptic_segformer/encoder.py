"""Deformable encoder of all feature levels (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from panoptic_segformer.padding import PaddedShapes
from segcore.layers import (
    SinePositionEncoding,
    encoder_layers,
    flatten_levels,
    level_positions,
    run_layers,
    token_encodings,
)


class MultiScaleEncoder(nn.Module):
    """Deformable encoder of maps, with a learned embedding of each level.

    Args:
        layer_options: of :class:`~segcore.layers.DeformableEncoderLayer`.
    """

    def __init__(
        self, embed_dim: int, *, num_layers: int, num_levels: int = 4, **layer_options
    ) -> None:
        super().__init__()
        self.layers = encoder_layers(
            embed_dim, num_layers=num_layers, num_levels=num_levels, **layer_options
        )
        self.position_encoding = SinePositionEncoding(embed_dim // 2, offset=-0.5)
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))

    def forward(self, maps: Sequence[Tensor], shapes: PaddedShapes) -> Tensor:
        """(B, C, H_l, W_l) each -> encoded tokens (B, S, C), level after level."""
        encodings = token_encodings(self.position_encoding, maps, shapes.masks())
        return run_layers(
            self.layers,
            flatten_levels(maps),
            level_positions(encodings, self.level_embed),
            shapes.reference_points(),
            shapes.spatial_shapes,
            shapes.token_mask(),
        )
