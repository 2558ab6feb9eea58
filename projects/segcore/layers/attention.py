"""Multi-head attention over fused kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.by_rows import takes_rows
from segcore.layers.linear import Linear, linear
from segcore.ops import attention


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    visible: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Apply scaled dot-product attention to rows that hold the channels of all heads.

    In inference on a CPU this is :func:`segcore.ops.attention`, which copies no heads. Half types
    take PyTorch's kernel there, too, which has the processor's instructions for them.

    Args:
        query: (B, Q, C).
        key, value: (B, S, C).
        visible: bool, broadcastable to (B, heads, Q, S), True = takes part.
        dropout: probability with which an attention weight is dropped.

    Returns:
        (B, Q, C).
    """
    if (
        dropout == 0
        and takes_rows(query)
        and query.dtype in (torch.float32, torch.float64)
        and (visible is None or visible.shape[1:] == (1, query.shape[1], key.shape[1]))
    ):
        return attention(query, key, value, num_heads, None if visible is None else visible[:, 0])
    heads = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    attended = F.scaled_dot_product_attention(*heads, attn_mask=visible, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with the parameter names of ``torch.nn.MultiheadAttention``.

    One mask is shared by all heads instead of being repeated for each. All matrices are initialized
    Xavier-uniform (the packed projection as one matrix), all biases 0.

    Args:
        dropout: probability with which an attention weight is dropped in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of embed_dim {embed_dim}, got {num_heads}"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Attend from ``query`` (B, Q, C) to ``key`` and ``value`` (B, S, C).

        Args:
            visible: bool, broadcastable to (B, heads, Q, S), True = takes part. Every query must
                see at least one key.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            linear(x, weight, bias)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(query, key, value, self.num_heads, visible, dropout))
