"""Inverse-distance interpolation between tokens (AutoFocusFormer, supplement)."""

import torch
from torch import Tensor

from autofocusformer.tokens import Tokens
from segcore.ops import inverse_distance_weights, knn, point_gather, take

NUM_NEIGHBORS = 4
# Exponent of the squared distance in the weights.
POWER = 3.0


def nearest_tokens(queries: Tensor, positions: Tensor) -> Tensor:
    """Return the up to 4 tokens nearest to each point, nearest first: (B, Q, 2) and (B, N, 2) ->
    (B, Q, min(4, N)) int64."""
    return knn(queries, positions, min(NUM_NEIGHBORS, positions.shape[1]))


def interpolate(
    tokens: Tokens, queries: Tensor, nearest: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Interpolate features at points from the tokens near them.

    Args:
        tokens: N of each of B images.
        queries: (B, Q, 2) points as (x, y) in cells.
        nearest: (B, Q, k) tokens that count for a point.
        valid: (B, Q, k) bool, which of them do, if not all; at least one of each point.

    Returns:
        (B, Q, C), differentiable in the features.
    """
    neighbors = take(tokens.positions, nearest.flatten(1)).unflatten(1, nearest.shape[1:])
    dtype = torch.promote_types(tokens.features.dtype, torch.float32)
    weights = inverse_distance_weights(queries.to(dtype), neighbors.to(dtype), POWER, valid)
    return point_gather(tokens.features, nearest, weights)
