"""Deformable attention among tokens of several levels (AutoFocusFormer, section 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autofocusformer.interpolation import NUM_NEIGHBORS, interpolate, nearest_tokens
from autofocusformer.tokens import Tokens, grid_positions
from segcore.layers import DeformAttnProjections
from segcore.ops import point_deform_attn, take


@dataclass(frozen=True)
class TokenLevels:
    """Positions of the tokens of several feature levels, and those nearest to each cell.

    All levels have the same canvas.

    Attributes:
        sizes: tokens of each level
        positions: (B, S, 2) of all levels one after the other
        neighbors: (B, L, H * W, k) the up to 4 nearest tokens of each level for each cell, nearest
            first, as indices into the tokens of all levels; -1 where a level has fewer
        canvas: (H, W)
    """

    sizes: Sequence[int]
    positions: Tensor
    neighbors: Tensor
    canvas: tuple[int, int]

    @classmethod
    def from_tokens(cls, levels: Sequence[Tokens]) -> "TokenLevels":
        """Look up the nearest tokens of each cell.

        Raises:
            ValueError: the levels have different canvases
        """
        canvas, *others = (level.canvas for level in levels)
        if any(other != canvas for other in others):
            raise ValueError(f"levels: expected one canvas for all, got {[canvas, *others]}")
        sizes = [level.positions.shape[1] for level in levels]
        k = min(NUM_NEIGHBORS, max(sizes))
        offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        tables = [
            F.pad(table, (0, k - table.shape[-1]), value=-1)
            for table in (
                _nearest_to_cells(level.positions, canvas) + offset
                for level, offset in zip(levels, offsets, strict=True)
            )
        ]
        positions = torch.cat([level.positions for level in levels], dim=1)
        return cls(sizes, positions, torch.stack(tables, dim=1), canvas)

    def interpolate(self, level: int, features: Tensor, target: Tokens) -> Tensor:
        """Inverse-distance interpolation of a level, at tokens that are on cells of the canvas.

        Args:
            level: its index.
            features: (B, n, C) of its tokens.
            target: N tokens of each image; their features are not looked at.

        Returns:
            (B, N, C).
        """
        nearest = take(self.neighbors[:, level], target.cells)  # (B, N, k)
        valid = nearest >= 0
        nearest = torch.where(valid, nearest, nearest[..., :1])
        offset, size = sum(self.sizes[:level]), self.sizes[level]
        tokens = Tokens(features, self.positions[:, offset : offset + size], self.canvas)
        return interpolate(tokens, target.positions, nearest - offset, valid)


def _nearest_to_cells(positions: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return the up to 4 nearest tokens of each cell: (B, N, 2) -> (B, H * W, k)."""
    cells = grid_positions(canvas, positions.device).expand(len(positions), -1, -1)
    return nearest_tokens(cells, positions)


class PointDeformAttn(DeformAttnProjections):
    """Deformable attention whose samples are interpolated between tokens instead of grid cells.

    Offsets are in cells of the canvas.

    Args:
        power: of the squared distance in the inverse-distance weights.
        learnable_power: train it, from this value on.
    """

    float32_parts = ("shepard_power",)  # see segcore.precision

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        *,
        power: float,
        learnable_power: bool,
    ) -> None:
        super().__init__(embed_dim, num_levels, num_heads, num_points)
        self.shepard_power = nn.Parameter(torch.tensor([power])) if learnable_power else power

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        levels: TokenLevels,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (B, Q, C)
            reference_points: (B, Q, 2) as (x, y) in cells
            value: (B, S, C) of the tokens of all levels
            levels: positions of these tokens
            padding_mask: (B, S), true where value counts as zero

        Returns:
            (B, Q, C)
        """
        return self.attend(query, reference_points, self.values(value, padding_mask), levels)

    def attend(
        self, query: Tensor, reference_points: Tensor, values: Tensor, levels: TokenLevels
    ) -> Tensor:
        """Attend to ``values`` that are prepared, (B, S, M, C / M): see :meth:`values`."""
        offsets, weights = self.offsets_and_weights(query)
        locations = reference_points[:, :, None, None, None].to(offsets.dtype) + offsets
        sampled = point_deform_attn(
            values,
            levels.positions,
            levels.neighbors,
            levels.canvas,
            locations,
            weights,
            self.shepard_power,
        )
        return self.output_proj(sampled.to(query.dtype))
