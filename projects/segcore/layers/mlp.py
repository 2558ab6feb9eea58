"""Multi-layer perceptrons."""

from itertools import pairwise

from torch import Tensor, nn

from segcore.layers.by_rows import by_rows
from segcore.layers.linear import Linear


class MLP(nn.Module):
    """``num_layers`` linear layers ``layers.{i}`` with ReLU between them.

    Maps (..., in_features) to (..., out_features); every width between is ``hidden_features``.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int, num_layers: int):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        activations = [*["relu"] * (num_layers - 1), "none"]
        self.layers = nn.ModuleList(
            Linear(*pair, activation=activation)
            for pair, activation in zip(pairwise(widths), activations, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class FeedForward(nn.Module):
    """Two linear layers ``fc1``, ``fc2`` with GELU between, on (..., dim), as in a ViT block."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, activation="gelu")
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(self._forward, x.flatten(0, -2)[None]).view(x.shape)

    def _forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.fc1(x))))
