"""Adaptive downsampling (AutoFocusFormer, section 3.3): choice of the tokens that stay, and merging
of their neighborhoods."""

import torch
from torch import Tensor, nn

from autofocusformer.tokens import Tokens
from segcore.layers import Linear, by_rows
from segcore.ops import (
    NUM_OFFSET_FEATURES,
    ClusterNeighborhood,
    knn,
    neighborhood_merge,
    take,
)

# Signs of (dx, dy, d, sin, cos) of the opposite offset.
OPPOSITE = (-1.0, -1.0, 1.0, -1.0, -1.0)


class NeighborhoodMerge(nn.Module):
    """Weighted sums of a neighborhood, four for each channel, projected to ``out_dim`` channels.

    The weights are a small network of the members' offsets: a PointConv (Wu et al., 2019). What
    downsampling and point convolution share.

    Args:
        center_minus_member: the sign of the offsets; else member minus center.
    """

    def __init__(self, dim: int, out_dim: int, *, center_minus_member: bool = False) -> None:
        super().__init__()
        self.weight_net = nn.Sequential(
            nn.Linear(NUM_OFFSET_FEATURES, 4), nn.LayerNorm(4), nn.GELU()
        )
        self.norm = nn.LayerNorm(4 * dim)
        self.linear = Linear(4 * dim, out_dim)
        self.center_minus_member = center_minus_member

    def merge(
        self,
        tokens: Tokens,
        centers: Tensor,
        members: Tensor,
        valid: Tensor | None = None,
        importance: Tensor | None = None,
    ) -> Tensor:
        """Merge the neighborhoods of Q centers.

        Args:
            tokens: N of each image.
            centers: (B, Q, 2) positions.
            members: (B, Q, m) integers: the tokens of each neighborhood.
            valid: (B, Q, m) bool, False for members that do not count.
            importance: (B, N) factors of the members.

        Returns:
            (B, Q, out_dim).
        """
        linear, norm, _ = self.weight_net
        weight = linear.weight
        if self.center_minus_member:
            weight = weight * weight.new_tensor(OPPOSITE)

        def merge(centers: Tensor, members: Tensor, valid: Tensor | None = None) -> Tensor:
            merged = neighborhood_merge(
                tokens.features,
                tokens.positions,
                centers,
                members,
                valid,
                importance,
                weight,
                linear.bias,
                norm.weight,
                norm.bias,
            )
            return self.linear(self.norm(merged))

        return by_rows(merge, centers, members, *([] if valid is None else [valid]))


class AdaptiveDownsampling(NeighborhoodMerge):
    """Keeps the most important tokens, and a coarse grid, and merges neighborhoods into them.

    Args:
        stride: 2, 4, 8, ...: cells between tokens of this stage if they were a grid, doubled.
        alpha: weight of the importance against the grid.
        rate: share of the tokens that stay.
        reserve: always keep the tokens on the grid of twice the stride.
        prior: prefer tokens on the grid of the stride, see :func:`grid_prior`; else the importance
            alone decides which of the others stay.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        stride: int,
        alpha: float,
        rate: float,
        reserve: bool,
        prior: bool = True,
    ) -> None:
        super().__init__(dim, out_dim)
        self.stride = stride
        self.alpha = alpha
        self.rate = rate
        self.reserve = reserve
        self.prior = prior

    def forward(
        self, tokens: Tokens, importance: Tensor, neighborhood: ClusterNeighborhood
    ) -> Tokens:
        """``importance`` (B, N) of the tokens, in (0, 1) -> the tokens that stay."""
        indices = self.select(tokens, importance)
        members, valid = neighborhood.members(indices)
        positions = take(tokens.positions, indices)
        merged = self.merge(tokens, positions, members, valid, importance)
        return Tokens(merged, positions, tokens.canvas)

    @torch.no_grad()
    def select(self, tokens: Tokens, importance: Tensor) -> Tensor:
        """Return indices (B, n) of the tokens that stay: ascending, those of the coarse grid last.

        Of equal scores the lower index stays.
        """
        positions = tokens.positions
        batch, count, _ = positions.shape
        reserved = torch.zeros(batch, count, dtype=torch.bool, device=positions.device)
        num_reserved = 0
        if self.reserve:
            reserved = on_grid(positions, 2 * self.stride)
            num_reserved = _grid_points(tokens.canvas, 2 * self.stride)
        num_stay = max(torch.sym_int(count * self.rate), num_reserved, 1)

        score = self.alpha * importance
        if self.prior:
            score = score + grid_prior(positions, self.stride)
        score = score.masked_fill(reserved, -torch.inf)
        best = score.argsort(dim=1, descending=True, stable=True)[:, : num_stay - num_reserved]
        group = torch.full((batch, count), 2, dtype=torch.uint8, device=positions.device)
        group = group.scatter_(1, best, 0).masked_fill_(reserved, 1)
        return group.argsort(dim=1, stable=True)[:, :num_stay]


def on_grid(positions: Tensor, stride: int | Tensor) -> Tensor:
    """Return True where both coordinates (B, N, 2) are multiples of the stride: (B, N) bool."""
    return (positions.remainder(stride) == 0).all(-1)


def grid_prior(positions: Tensor, stride: int) -> Tensor:
    """Return 1 for tokens (B, N, 2) on the grid that every second one would be on, else 0: (B, N).

    Where tokens are sparser the grid is coarser: with the nearest other token at distance d, the
    grid has a point every ``2 ** (ceil(log2(d)) + 1)`` cells.
    """
    if stride > 2 and positions.shape[1] > 1:
        nearest = knn(positions, positions, 2)[..., 1]
        squared = (positions - take(positions, nearest)).square().sum(-1)
        # squared = mantissa * 2 ** exponent, mantissa in [0.5, 1): logarithms without rounding.
        mantissa, exponent = torch.frexp(squared)
        log_squared = exponent - (mantissa == 0.5).to(exponent.dtype)  # ceil(log2(squared))
        log_distance = (log_squared + 1).div(2, rounding_mode="floor")
        stride = torch.ldexp(torch.ones_like(squared), log_distance + 1)[..., None]
    return on_grid(positions, stride).to(positions.dtype)


def _grid_points(canvas: tuple[int, int], stride: int) -> int:
    """Return the number of cells of a canvas that are on the grid."""
    height, width = canvas
    return -(-height // stride) * -(-width // stride)
