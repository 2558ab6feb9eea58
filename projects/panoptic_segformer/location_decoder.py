"""Location decoder: thing queries find their objects (Panoptic SegFormer, Li et al., 2022)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segcore.functional import at_least_float32
from segcore.layers import MLP, Linear, MSDeformAttn, MultiHeadAttention

# Classes are improbable at first (focal loss, section 4.1).
PRIOR_PROBABILITY = 0.01
# Boxes of the first layer start this small: logit of width and height.
INITIAL_SIZE_LOGIT = -2.0
LOGIT_EPS = 1e-5


class LocationOutput(NamedTuple):
    """Output of the location decoder.

    Attributes:
        logits: (B, Q, K) of each layer, of the thing classes.
        boxes: (B, Q, num_coordinates) of each layer, float32 at least, in units of the image
            without padding: (center x, center y, width, height), or the centers alone.
        queries: (B, Q, C), the last layer's.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    queries: Tensor


class LocationDecoderLayer(nn.Module):
    """Self-attention, deformable attention to the tokens, feed-forward; LayerNorm after each."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_levels: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
        dropout: float,
    ):
        super().__init__()
        self.self_attn = MultiHeadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn = MSDeformAttn(embed_dim, num_levels, num_heads, num_points)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.linear1 = Linear(embed_dim, feedforward_dim, activation="relu")
        self.linear2 = Linear(feedforward_dim, embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None,
    ) -> Tensor:
        """
        Args:
            queries: (B, Q, C).
            positions: (Q, C), added to the queries in both attentions.
            reference_points, memory, spatial_shapes, padding_mask: see :class:`MSDeformAttn`.
        """
        positioned = queries + positions
        queries = self.norm1(
            queries + self.dropout(self.self_attn(positioned, positioned, queries))
        )
        attended = self.cross_attn(
            queries + positions, reference_points, memory, spatial_shapes, padding_mask
        )
        queries = self.norm2(queries + self.dropout(attended))
        hidden = self.dropout(self.linear1(queries))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))


class LocationDecoder(nn.Module):
    """Decoder layers that refine boxes one after the other (Deformable DETR, section 4.2)."""

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_queries: int = 300,
        num_classes: int,
        num_layers: int = 6,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        num_coordinates: int = 4,
    ):
        """
        Args:
            num_classes: K thing classes.
            num_coordinates: 4 for boxes, 2 for centers alone, see :class:`LocationKind`.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            LocationDecoderLayer(
                embed_dim,
                num_levels=num_levels,
                num_heads=num_heads,
                num_points=num_points,
                feedforward_dim=feedforward_dim,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        # Of each query first its position, then its content.
        self.query_embed = nn.Embedding(num_queries, 2 * embed_dim)
        self.reference_points = nn.Linear(embed_dim, 2)
        self.class_embed = class_branches(num_layers, embed_dim, num_classes)
        self.bbox_embed = nn.ModuleList(
            MLP(embed_dim, embed_dim, num_coordinates, 3) for _ in range(num_layers)
        )
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        for branch in self.bbox_embed:
            nn.init.zeros_(branch.layers[-1].weight)
            nn.init.zeros_(branch.layers[-1].bias)
        nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], INITIAL_SIZE_LOGIT)

    def forward(
        self,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        valid_ratios: Tensor,
        padding_mask: Tensor | None = None,
    ) -> LocationOutput:
        """
        Args:
            memory: encoded tokens (B, S, C) of all levels.
            spatial_shapes: (h, w) of each level.
            valid_ratios: (B, levels, 2), each image's share (x, y) of the padded maps.
            padding_mask: bool (B, S), True = padding.
        """
        positions, content = self.query_embed.weight.chunk(2, dim=1)
        queries = content.expand(len(memory), -1, -1)
        reference = at_least_float32(self.reference_points(positions)).sigmoid()
        reference = reference.expand(len(memory), -1, -1)

        logits, boxes = [], []
        for layer, classify, locate in zip(
            self.layers, self.class_embed, self.bbox_embed, strict=True
        ):
            # An image's coordinates -> those of its padded maps.
            scale = valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
            on_maps = reference[:, :, None] * scale[:, None]
            queries = layer(queries, positions, on_maps, memory, spatial_shapes, padding_mask)
            logits.append(classify(queries))
            boxes.append(_refined(at_least_float32(locate(queries)), reference))
            reference = boxes[-1].detach()
        return LocationOutput(logits, boxes, queries)


def class_branches(count: int, embed_dim: int, num_classes: int) -> nn.ModuleList:
    """Build linear layers that predict every class with the prior probability at first."""
    branches = nn.ModuleList(nn.Linear(embed_dim, num_classes) for _ in range(count))
    for branch in branches:
        nn.init.constant_(branch.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return branches


def _refined(delta: Tensor, reference: Tensor) -> Tensor:
    """``reference`` moved by ``delta`` in the space of logits; it may have fewer coordinates."""
    known = reference.shape[-1]
    moved = delta[..., :known] + _logit(reference)
    return torch.cat((moved, delta[..., known:]), dim=-1).sigmoid()


def _logit(x: Tensor) -> Tensor:
    # Not torch.logit: its clamp moves both x and 1 - x.
    x = x.clamp(0, 1)
    return (x.clamp(min=LOGIT_EPS) / (1 - x).clamp(min=LOGIT_EPS)).log()
