"""Attention maps of queries."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.functional import bilinear


class QueryAttention(NamedTuple):
    """Attention of one query in every layer, with its prediction.

    Attributes:
        query: its index.
        label: contiguous class id.
        score: class score, times the mask score in systems that have one.
        layers: map (h, w) of each decoder layer, without padding; not negative.
        mask: (h, w) final mask without padding, values in [0, 1].
    """

    query: int
    label: int
    score: float
    layers: Sequence[Tensor]
    mask: Tensor


def attention_maps(weights: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Return one attention map a query: the mean over heads of the sum over feature levels.

    The weight of a coarse cell is spread over its area, so that a map sums up to about 1.

    Args:
        weights: (M, N, L) of M heads and N queries to the L tokens of all levels, which follow each
            other, row by row.
        spatial_shapes: (h, w) of each level, the finest first.

    Returns:
        (N, h, w) at the size of the finest level.
    """
    finest = spatial_shapes[0]
    sizes = [height * width for height, width in spatial_shapes]
    maps = [
        bilinear(level.unflatten(-1, size), finest) * (level.shape[-1] / sizes[0])
        for level, size in zip(weights.mean(0).split(sizes, dim=-1), spatial_shapes, strict=True)
    ]
    return torch.stack(maps).sum(0)
