"""Transformer block whose tokens attend to their neighborhood (AutoFocusFormer, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from autofocusformer.tokens import Tokens
from segcore.layers import FeedForward, Linear, by_rows
from segcore.ops import NUM_OFFSET_FEATURES, ClusterNeighborhood, cluster_attention

NUM_PLAIN_FEATURES = 2  # dx, dy


class NeighborhoodAttention(nn.Module):
    """Multi-head attention to the tokens of near clusters and to a learned blank token.

    Args:
        blank_token: attend to the blank token as well.
        plain_offsets: the bias of a member follows from its offset (dx, dy) alone, without length
            and direction.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        blank_token: bool = True,
        plain_offsets: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.q = Linear(dim, dim)
        # Head by head, first the channels of the key, then those of the value.
        self.kv = Linear(dim, 2 * dim)
        # Of the offset (dx, dy, d, sin, cos) to a member, to the bias of each head.
        num_features = NUM_PLAIN_FEATURES if plain_offsets else NUM_OFFSET_FEATURES
        self.pos_embed = nn.Linear(num_features, num_heads)
        for name in ("blank_k", "blank_v"):
            blank = nn.Parameter(torch.randn(dim)) if blank_token else None
            self.register_parameter(name, blank)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, neighborhood: ClusterNeighborhood) -> Tensor:
        """(B, N, C) features, (B, N, 2) positions, in the order of the clusters -> (B, N, C)."""
        query = self.q(x).unflatten(-1, (self.num_heads, -1))
        key, value = self.kv(x).unflatten(-1, (self.num_heads, 2, -1)).unbind(3)
        weight = self.pos_embed.weight
        if weight.shape[1] < NUM_OFFSET_FEATURES:
            weight = F.pad(weight, (0, NUM_OFFSET_FEATURES - weight.shape[1]))

        def attend(value: Tensor, blank_k: Tensor, blank_v: Tensor) -> Tensor:
            bias = self.pos_embed.bias
            return cluster_attention(
                query, key, value, positions, neighborhood, weight, bias, blank_k, blank_v
            )

        if self.blank_k is not None:
            attended = attend(value, self.blank_k, self.blank_v)
        else:
            # With a blank token of value 0, attention to ones is the share of the members.
            nothing = weight.new_zeros(x.shape[-1])
            share = attend(torch.ones_like(value), nothing, nothing)
            attended = attend(value, nothing, nothing) / share
        return self.proj_drop(self.proj(attended))


class Block(nn.Module):
    """Attention, then an MLP, each with a residual.

    Args:
        layer_scale: initial value of the factors of each channel's residual; 0: no factors.
        blank_token, plain_offsets: see :class:`NeighborhoodAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        layer_scale: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        blank_token: bool = True,
        plain_offsets: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention(
            dim, num_heads, dropout, blank_token=blank_token, plain_offsets=plain_offsets
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = StochasticDepth(drop_path, mode="row")
        for name in ("gamma1", "gamma2"):
            scale = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale > 0 else None
            self.register_parameter(name, scale)

    def forward(self, tokens: Tokens, neighborhood: ClusterNeighborhood) -> Tokens:
        x = tokens.features
        attended = self.attn(self.norm1(x), tokens.positions, neighborhood)
        return tokens.with_features(by_rows(self._update, x, attended))

    def _update(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path(_scaled(attended, self.gamma1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma2))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
