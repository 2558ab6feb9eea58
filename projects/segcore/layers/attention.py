"""Multi-head attention over PyTorch's fused kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.linear import Linear, linear


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
            linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropout
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))
