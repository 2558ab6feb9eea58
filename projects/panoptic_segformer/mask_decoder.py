"""Mask decoders: masks from attention logits (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcore.functional import bilinear
from segcore.layers import FeedForward, Linear, attend, by_rows, pad_to, takes_rows

# Levels of the encoder that masks are made from: strides 8, 16 and 32 as published.
NUM_MASK_LEVELS = 3
LAYER_NORM_EPS = 1e-6

SpatialShapes = Sequence[tuple[int, int]]


class MaskOutput(NamedTuple):
    """Output of a mask decoder.

    Attributes:
        masks: (B, N, h, w) of each block and, last, of the tail; or of the tail only. At the size
            of the finest level. Values from 0, without upper bound, used as probabilities.
        queries: (B, N, C) of each block.
    """

    masks: list[Tensor]
    queries: list[Tensor]

    def padded(self, size: tuple[int, int]) -> "MaskOutput":
        """Return the output with masks of ``size`` (h, w), 0 at the bottom and on the right."""
        return self._replace(masks=[pad_to(mask, size) for mask in self.masks])


class AttentionMask(nn.Module):
    """Attention logits of all heads and levels, put together to a mask: a decoder's tail."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(embed_dim, embed_dim)
        self.k = Linear(embed_dim, embed_dim)
        self.mask_level = nn.ModuleList(
            nn.Linear(num_heads, num_heads) for _ in range(NUM_MASK_LEVELS)
        )
        self.mask_fuse = nn.Linear(NUM_MASK_LEVELS * num_heads, 1)

    def forward(self, queries: Tensor, memory: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """
        Args:
            queries: (B, N, C).
            memory: (B, L, C), the tokens of all levels.
            spatial_shapes: (h, w) of each level, fine to coarse.

        Returns:
            (B, N, h, w) at the size of the finest level.
        """
        return self.masks(self.q(queries), self.k(memory), spatial_shapes)

    def heads(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, M, S, C / M), for M heads."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def masks(self, q: Tensor, k: Tensor, spatial_shapes: SpatialShapes) -> Tensor:
        """Masks (B, N, h, w) of projected queries (B, N, C) and tokens (B, L, C)."""
        q, k = self.heads(q), self.heads(k)
        batch, _, queries, channels = q.shape
        q = q * channels**-0.5
        keys = k.split([height * width for height, width in spatial_shapes], dim=2)
        shares = self.mask_fuse.weight.split(self.num_heads, dim=1)
        mask = self.mask_fuse.bias
        for key, size, level, share in zip(
            keys, spatial_shapes, self.mask_level, shares, strict=True
        ):
            # Logits are M times as large as masks, and quickly computed a second time.
            part = recomputed(_level_mask, q, key, level.weight, level.bias, share)
            mask = mask + bilinear(part.view(batch * queries, *size), spatial_shapes[0])
        return mask.relu().view(batch, queries, *spatial_shapes[0])


def _level_mask(q: Tensor, key: Tensor, weight: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """Attention logits of one level through its layer, summed by the shares of the heads.

    The sum commutes with the resizing that follows: one map is resized instead of one a head.

    Args:
        q, key: (B, M, N, D) and (B, M, L, D), for M heads.
        weight, bias, share: (M, M), (M,) and (1, M).

    Returns:
        (B, N, L).
    """

    def of_tokens(key: Tensor) -> Tensor:
        """(B, n, M, D) -> (B, n, N)."""
        logits = (q @ key.permute(0, 2, 3, 1)).flatten(2)
        mask = share @ (weight @ logits + bias[:, None]).relu_()
        return mask.view(len(q), q.shape[2], key.shape[1]).transpose(1, 2)

    tokens = key.transpose(1, 2)
    out = None
    if takes_rows(tokens):
        out = tokens.new_empty(len(q), q.shape[2], tokens.shape[1]).transpose(1, 2)
    return by_rows(of_tokens, tokens, out=out).transpose(1, 2)


def recomputed(function: Callable, *inputs: Any) -> Any:
    """``function(*inputs)``; the backward pass computes again what it needs, from the inputs."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


class MaskAttention(AttentionMask):
    """Cross-attention whose logits before the softmax also give a mask."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__(embed_dim, num_heads)
        self.v = Linear(embed_dim, embed_dim)
        self.proj = Linear(embed_dim, embed_dim)

    def forward(
        self, queries: Tensor, memory: Tensor, spatial_shapes: SpatialShapes, with_mask: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return attended values (B, N, C), and the masks if wanted; see :class:`AttentionMask`."""
        q, k, v = self.q(queries), self.k(memory), self.v(memory)
        # Fused: it never holds the logits, which the mask computes by itself.
        attended = attend(q, k, v, self.num_heads)
        return self.proj(attended), self.masks(q, k, spatial_shapes) if with_mask else None

    def attention(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return attention weights (B, M, N, L), for visualization."""
        q, k = self.heads(self.q(queries)), self.heads(self.k(memory))
        return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)


class SelfAttention(nn.Module):
    """Self-attention with one packed projection."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dim, 3 * embed_dim)
        self.proj = Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.proj(attend(*self.qkv(x).chunk(3, dim=-1), self.num_heads))


class MaskDecoderLayer(nn.Module):
    """Self-attention (optional), attention to the tokens, feed-forward; LayerNorm after each."""

    def __init__(
        self, embed_dim: int, *, num_heads: int, self_attention: bool, feedforward_dim: int
    ):
        super().__init__()
        self.self_attn = SelfAttention(embed_dim, num_heads) if self_attention else None
        self.norm0 = nn.LayerNorm(embed_dim, LAYER_NORM_EPS) if self_attention else None
        self.cross_attn = MaskAttention(embed_dim, num_heads)
        self.norm1 = nn.LayerNorm(embed_dim, LAYER_NORM_EPS)
        self.mlp = FeedForward(embed_dim, feedforward_dim)
        self.norm2 = nn.LayerNorm(embed_dim, LAYER_NORM_EPS)

    def forward(
        self, queries: Tensor, memory: Tensor, spatial_shapes: SpatialShapes, with_mask: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return refined queries (B, N, C) and, if wanted, the masks of the attention."""
        if self.self_attn is not None:
            queries = self.norm0(queries + self.self_attn(queries))
        attended, mask = self.cross_attn(queries, memory, spatial_shapes, with_mask)
        queries = self.norm1(queries + attended)
        return self.norm2(queries + self.mlp(queries)), mask


class MaskDecoder(nn.Module):
    """Blocks that refine queries, each with an intermediate mask, and a tail for the final one.

    All matrices are initialized Xavier-uniform.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        *,
        num_layers: int,
        self_attention: bool,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        recompute: bool = False,
    ):
        """
        Args:
            num_layers: number of blocks, the tail not counted.
            self_attention: of the queries, in every block.
            recompute: keep only the inputs of a block for the backward pass.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            MaskDecoderLayer(
                embed_dim,
                num_heads=num_heads,
                self_attention=self_attention,
                feedforward_dim=feedforward_dim,
            )
            for _ in range(num_layers)
        )
        self.tail = AttentionMask(embed_dim, num_heads)
        self.recompute = recompute
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        queries: Tensor,
        position: Tensor | None,
        memory: Tensor,
        spatial_shapes: SpatialShapes,
        *,
        all_masks: bool = True,
    ) -> MaskOutput:
        """
        Args:
            queries: (B, N, C); N may be 0.
            position: (N, C) or (B, N, C), added to the queries before every block and the tail.
            memory: (B, L, C), the tokens of three levels.
            spatial_shapes: (h, w) of these, fine to coarse.
            all_masks: also return the blocks' masks, which only training needs.
        """
        position = 0 if position is None else position
        outputs = MaskOutput([], [])
        for layer in self.layers:
            queries, mask = self._run(layer, queries + position, memory, spatial_shapes, all_masks)
            outputs.queries.append(queries)
            if all_masks:
                outputs.masks.append(mask)
        outputs.masks.append(self._run(self.tail, queries + position, memory, spatial_shapes))
        return outputs

    def _run(self, module: nn.Module, *inputs):
        return recomputed(module, *inputs) if self.recompute else module(*inputs)
