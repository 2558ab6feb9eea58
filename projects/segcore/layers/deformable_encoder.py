"""Transformer encoder with multi-scale deformable attention (Deformable DETR, section 4.1)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from segcore.layers.add_norm import add_norm_
from segcore.layers.by_rows import by_rows, split_rows, takes_rows
from segcore.layers.convolution import has_hooks
from segcore.layers.linear import Linear
from segcore.layers.ms_deform_attn import DeformAttnProjections, MSDeformAttn


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each in a residual, LayerNorm after.

    Args:
        attention: builds the attention, of (embed_dim, num_levels, num_heads, num_points); its
            forward takes (query, reference_points, value, spatial_shapes, padding_mask).
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_levels: int,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
        attention: Callable[[int, int, int, int], nn.Module] = MSDeformAttn,
    ):
        super().__init__()
        self.self_attn = attention(embed_dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = Linear(embed_dim, feedforward_dim, activation="relu")
        self.linear2 = Linear(feedforward_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        spatial_shapes: Any,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        attention = self.self_attn
        if not isinstance(attention, DeformAttnProjections) or has_hooks(self):
            attended = attention(
                tokens + positions, reference_points, tokens, spatial_shapes, padding_mask
            )
            return by_rows(self._update, tokens, attended)
        values = attention.values(tokens, padding_mask)
        if self.training or not takes_rows(tokens):
            attended = attention.attend(
                tokens + positions, reference_points, values, spatial_shapes
            )
            return self._update(tokens, attended)
        result = torch.empty_like(tokens)
        for part in split_rows(tokens, positions, reference_points, result):
            tokens_of_part, positions_of_part, points, out = part
            attended = attention.attend(
                tokens_of_part + positions_of_part, points, values, spatial_shapes
            )
            self._infer(tokens_of_part, attended, out)
        return result

    def _update(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Apply residuals and feed-forward network."""
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(self.linear1(tokens))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))

    def _infer(self, tokens: Tensor, attended: Tensor, out: Tensor) -> None:
        """:meth:`_update` without gradients and dropout, in the memory of ``attended``."""
        tokens = add_norm_(self.norm1, attended, tokens, out=attended)
        add_norm_(self.norm2, self.linear2(self.linear1(tokens)), tokens, out=out)


def encoder_layers(embed_dim: int, *, num_layers: int, **layer_options) -> nn.ModuleList:
    """Build layers; ``layer_options`` are those of :class:`DeformableEncoderLayer`."""
    return nn.ModuleList(
        DeformableEncoderLayer(embed_dim, **layer_options) for _ in range(num_layers)
    )


def run_layers(layers: Iterable[nn.Module], tokens: Tensor, *others: Any) -> Tensor:
    """Encode tokens by one layer after the other. See :class:`DeformableEncoder`."""
    for layer in layers:
        tokens = layer(tokens, *others)
    return tokens


class DeformableEncoder(nn.Module):
    """``num_layers`` encoder layers ``layers.{i}``; keyword arguments are those of a layer."""

    def __init__(self, embed_dim: int, *, num_layers: int, **layer_options):
        super().__init__()
        self.layers = encoder_layers(embed_dim, num_layers=num_layers, **layer_options)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        spatial_shapes: Any,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode the tokens of all levels, S of them, level after level.

        The last three are handed to the attention; those of :class:`MSDeformAttn` are described.

        Args:
            tokens: (B, S, C).
            positions: (B or 1, S, C), added to the queries of every layer.
            reference_points: (B, S, levels, 2), (x, y) in [0, 1], float32.
            spatial_shapes: (H, W) of each level.
            padding_mask: bool (B, S), True = padding, whose values count as zero.

        Returns:
            (B, S, C).
        """
        return run_layers(
            self.layers, tokens, positions, reference_points, spatial_shapes, padding_mask
        )
