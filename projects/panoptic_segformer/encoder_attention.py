"""Self-attention of the encoder's tokens: deformable over all levels, or what ablations replace it
by."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segcore.layers import MSDeformAttn, MultiHeadAttention


class SingleScaleAttention(nn.Module):
    """Deformable attention in which tokens look at their own level only; arguments are those of
    :class:`~segcore.layers.MSDeformAttn`."""

    def __init__(self, embed_dim: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.attention = MSDeformAttn(embed_dim, 1, num_heads, num_points)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        sizes = [height * width for height, width in spatial_shapes]
        masks = [None] * len(sizes) if padding_mask is None else padding_mask.split(sizes, dim=1)
        levels = zip(
            query.split(sizes, dim=1),
            reference_points.split(sizes, dim=1),
            value.split(sizes, dim=1),
            spatial_shapes,
            masks,
            strict=True,
        )
        attended = [
            self.attention(queries, points[:, :, [level]], values, [shape], mask)
            for level, (queries, points, values, shape, mask) in enumerate(levels)
        ]
        return torch.cat(attended, dim=1)


class PlainAttention(nn.Module):
    """Attention of every token to all tokens of all levels; arguments are those of
    :class:`~segcore.layers.MSDeformAttn`. Time is quadratic in the pixels of an image."""

    def __init__(self, embed_dim: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.attention = MultiHeadAttention(embed_dim, num_heads)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        visible = None if padding_mask is None else ~padding_mask[:, None, None]
        return self.attention(query, query, value, visible)


# By the value of MODEL.PANOPTIC_SEGFORMER.ENCODER_ATTENTION.
ENCODER_ATTENTIONS = {
    "multi_scale": MSDeformAttn,
    "single_scale": SingleScaleAttention,
    "plain": PlainAttention,
}
