"""Encoder and decoder layers of DETR (Carion et al., 2020, appendix A.3)."""

from collections.abc import Callable

from torch import Tensor, nn

from segcore.layers import Linear, MultiHeadAttention


class DetrLayer(nn.Module):
    """Attention layers and a feed-forward network, each in a residual with a LayerNorm.

    Args:
        dim, num_heads, feedforward_dim: widths.
        dropout: of attention weights, inside of the feed-forward network and of what is added.
        pre_norm: LayerNorm before attention and feed-forward network, not after the sum.
    """

    def __init__(
        self, dim: int, *, num_heads: int, feedforward_dim: int, dropout: float, pre_norm: bool
    ):
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = Linear(dim, feedforward_dim, activation="relu")
        self.linear2 = Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def _residual(
        self, norm: nn.Module, tokens: Tensor, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if self.pre_norm:
            return tokens + self.dropout(sublayer(norm(tokens)))
        return norm(tokens + self.dropout(sublayer(tokens)))

    def _attend_to_themselves(self, tokens: Tensor, positions: Tensor) -> Tensor:
        key = tokens + positions
        return self.self_attn(key, key, tokens)

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.linear1(tokens)))


class DetrEncoderLayer(DetrLayer):
    """Tokens (B, S, C) at positions (B or 1, S, C) attend to each other."""

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        tokens = self._residual(
            self.norm1, tokens, lambda x: self._attend_to_themselves(x, positions)
        )
        return self._residual(self.norm2, tokens, self._feed_forward)


class DetrDecoderLayer(DetrLayer):
    """Queries attend to each other, then to tokens."""

    def __init__(self, dim: int, *, num_heads: int, dropout: float, **options):
        super().__init__(dim, num_heads=num_heads, dropout=dropout, **options)
        self.multihead_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_pos: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """
        Args:
            queries: (B, Q, C).
            query_pos: (Q, C), added to the queries in both attentions.
            key, value: (B, S, C), the tokens with and without their positions.
        """
        queries = self._residual(
            self.norm1, queries, lambda x: self._attend_to_themselves(x, query_pos)
        )
        queries = self._residual(
            self.norm2, queries, lambda x: self.multihead_attn(x + query_pos, key, value)
        )
        return self._residual(self.norm3, queries, self._feed_forward)


class DetrEncoder(nn.Module):
    """``num_layers`` layers ``layers.{i}``, and with ``pre_norm`` a last LayerNorm ``norm``, also
    where there is no layer; keyword arguments are those of :class:`DetrLayer`."""

    def __init__(self, dim: int, *, num_layers: int, pre_norm: bool, **options):
        super().__init__()
        self.layers = nn.ModuleList(
            DetrEncoderLayer(dim, pre_norm=pre_norm, **options) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else None

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Encode tokens (B, S, C); ``positions`` (B or 1, S, C) are added in every layer."""
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens if self.norm is None else self.norm(tokens)


class DetrDecoder(nn.Module):
    """``num_layers`` layers ``layers.{i}``, and the LayerNorm ``norm`` of what they predict from;
    keyword arguments are those of :class:`DetrLayer`."""

    def __init__(self, dim: int, *, num_layers: int, **options):
        super().__init__()
        self.layers = nn.ModuleList(DetrDecoderLayer(dim, **options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, query_pos: Tensor, memory: Tensor, positions: Tensor) -> list[Tensor]:
        """Decode queries that are zeros at first.

        Args:
            query_pos: (Q, C).
            memory: (B, S, C), the tokens.
            positions: (B or 1, S, C), theirs.

        Returns:
            The queries (B, Q, C) after each layer, normalized.
        """
        queries = memory.new_zeros(len(memory), *query_pos.shape)
        key, outputs = memory + positions, []
        for layer in self.layers:
            queries = layer(queries, query_pos, key, memory)
            outputs.append(self.norm(queries))
        return outputs
