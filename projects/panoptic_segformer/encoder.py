"""Deformable encoder of all feature levels (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from panoptic_segformer.padding import PaddedShapes
from segcore.layers import (
    DeformableEncoder,
    SinePositionEncoding,
    flatten_levels,
    level_positions,
)


class MultiScaleEncoder(DeformableEncoder):
    """A deformable encoder that takes maps, with a learned embedding of each level."""

    def __init__(self, embed_dim: int, *, num_levels: int = 4, **options):
        """Keyword arguments are those of :class:`DeformableEncoder`."""
        super().__init__(embed_dim, num_levels=num_levels, **options)
        self.position_encoding = SinePositionEncoding(embed_dim // 2, offset=-0.5)
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))

    def forward(self, maps: Sequence[Tensor], shapes: PaddedShapes) -> Tensor:
        """(B, C, H_l, W_l) each -> encoded tokens (B, S, C), level after level."""
        positions = level_positions(
            self.position_encoding, self.level_embed, shapes.spatial_shapes, shapes.masks()
        )
        return super().forward(
            flatten_levels(maps),
            positions,
            shapes.reference_points(),
            shapes.spatial_shapes,
            shapes.token_mask(),
        )
