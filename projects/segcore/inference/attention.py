"""What the queries of a mask decoder attend to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.inference.masks import bilinear


class QueryAttention(NamedTuple):
    """One query: where it looks in every layer, and what comes of it.

    Attributes:
        query: its number.
        label: contiguous class.
        score: of the class and, where the system has such, the mask.
        layers: (h, w) of each decoder layer, of the image without padding; not negative.
        mask: (h, w) final mask, values in [0, 1], of the image without padding.
    """

    query: int
    label: int
    score: float
    layers: Sequence[Tensor]
    mask: Tensor


def attention_maps(weights: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
    """Attention to the tokens of several levels as one map a query: the mean of the heads, the sum
    of the levels.

    A coarse cell's weight is spread over its area, so that a map sums up to about 1.

    Args:
        weights: (M, N, L) of M heads and N queries, to the tokens of all levels, one after the
            other, row by row.
        levels: (h, w) of each, the finest first.

    Returns:
        (N, h, w) at the size of the finest level.
    """
    finest = levels[0]
    sizes = [height * width for height, width in levels]
    maps = [
        bilinear(level.unflatten(-1, size), finest) * (level.shape[-1] / sizes[0])
        for level, size in zip(weights.mean(0).split(sizes, dim=-1), levels, strict=True)
    ]
    return torch.stack(maps).sum(0)
