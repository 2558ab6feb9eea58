"""Tokens: features at points of a grid, of which only some are occupied."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segcore.ops import take


@dataclass(frozen=True)
class Tokens:
    """N tokens of each of B images, on a canvas of one cell every 4 pixels.

    Attributes:
        features: (B, N, C)
        positions: (B, N, 2) cells as (x, y), whole numbers; float32, at which all are exact
        canvas: (H, W) in cells
    """

    features: Tensor
    positions: Tensor
    canvas: tuple[int, int]

    @property
    def cells(self) -> Tensor:
        """Index of each token's cell, row by row: (B, N) int64."""
        x, y = self.positions.long().unbind(-1)
        return y * self.canvas[1] + x

    def with_features(self, features: Tensor) -> "Tokens":
        """Return the tokens with other features."""
        return Tokens(features, self.positions, self.canvas)

    def map(self) -> Tensor:
        """Return the features of tokens, one in each cell, as a map (B, C, H, W).

        Raises:
            ValueError: there are more, or fewer, tokens than cells
        """
        height, width = self.canvas
        batch, count, _ = self.features.shape
        if count != height * width:
            raise ValueError(
                f"tokens: expected one in each of {height} x {width} cells, got {count} tokens"
            )
        token = torch.arange(count, device=self.features.device).expand(batch, -1)
        token_by_cell = torch.empty_like(token).scatter_(1, self.cells, token)
        return take(self.features, token_by_cell).transpose(1, 2).unflatten(2, self.canvas)


def grid_positions(canvas: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
    """Every cell (x, y) of a canvas (H, W), row by row: (H * W, 2) float32."""
    height, width = canvas
    y = torch.arange(height, dtype=torch.float32, device=device)
    x = torch.arange(width, dtype=torch.float32, device=device)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)
