"""AutoFocusFormer's five gather operators in plain PyTorch (Ziwen et al., CVPR 2023), as published.

The fused operators of this package are checked against their composition. ``members`` lists rows of
a token set; repeated rows accumulate in the gradients. Where the types of two operands differ, one
is cast to that of the other, as each docstring says.
"""

import torch
from torch import Tensor


def gather_tokens(tokens: Tensor, members: Tensor) -> Tensor:
    """Select rows of (B, N, C) tokens by (B, ...) indices, checked on the CPU: (B, ..., C)."""
    channels = tokens.shape[-1]
    rows = members.flatten(1).unsqueeze(-1).expand(-1, -1, channels)
    return tokens.gather(1, rows.long()).view(*members.shape, channels)


def neighborhood_qk(query: Tensor, key: Tensor, members: Tensor) -> Tensor:
    """Compute ``A[b,h,i,s] = <query[b,h,i], key[b,h,members[b,i,s]]>``.

    Args:
        query: (B, h, n, c)
        key: (B, h, n, c), cast to the type of ``query``
        members: (B, n, m), shared by the heads

    Returns:
        (B, h, n, m)
    """
    gathered = _gather_heads(key.to(query.dtype), members)
    return torch.einsum("bhic,bhisc->bhis", query, gathered)


def neighborhood_av(attention: Tensor, value: Tensor, members: Tensor) -> Tensor:
    """Compute ``O[b,h,i] = sum_s attention[b,h,i,s] value[b,h,members[b,i,s]]``.

    Args:
        attention: (B, h, n, m)
        value: (B, h, n, c), cast to the type of ``attention``
        members: (B, n, m), shared by the heads

    Returns:
        (B, h, n, c)
    """
    gathered = _gather_heads(value.to(attention.dtype), members)
    return torch.einsum("bhis,bhisc->bhic", attention, gathered)


def neighborhood_weighted_feature(weights: Tensor, features: Tensor, members: Tensor) -> Tensor:
    """Compute ``O[b,i,r] = sum_s weights[b,i,s,r] features[b,members[b,i,s]]``.

    Args:
        weights: (B, Q, m, r)
        features: (B, N, C), cast to the type of ``weights``
        members: (B, Q, m)

    Returns:
        (B, Q, r, C)
    """
    gathered = gather_tokens(features.to(weights.dtype), members)
    return torch.einsum("bisr,bisc->birc", weights, gathered)


def weighted_gather(members: Tensor, weights: Tensor, features: Tensor) -> Tensor:
    """Compute ``O[b,i] = sum_s weights[b,i,s] features[b,members[b,i,s]]``.

    Args:
        members: (B, Q, k)
        weights: (B, Q, k), cast to the type of ``features``
        features: (B, N, C)

    Returns:
        (B, Q, C)
    """
    gathered = gather_tokens(features, members)
    return torch.einsum("bis,bisc->bic", weights.to(features.dtype), gathered)


def deformable_gather_points(
    members: Tensor, weights: Tensor, attention: Tensor, value: Tensor
) -> Tensor:
    """Compute ``O[b,i] = sum_p attention[b,i,p] sum_s weights[b,i,p,s] value[b,members[b,i,p,s]]``.

    Args:
        members: (B, Q, M, k), B = images x heads, M = levels x points
        weights: (B, Q, M, k)
        attention: (B, Q, M)
        value: (B, N, c)

    Returns:
        (B, Q, c)
    """
    return weighted_gather(members.flatten(2), (attention[..., None] * weights).flatten(2), value)


def _gather_heads(tokens: Tensor, members: Tensor) -> Tensor:
    """Select rows of (B, h, n, c) tokens by (B, q, m) indices: (B, h, q, m, c)."""
    heads = tokens.shape[1]
    members = members[:, None].expand(-1, heads, -1, -1)
    gathered = gather_tokens(tokens.flatten(0, 1), members.flatten(0, 1))
    return gathered.unflatten(0, tokens.shape[:2])
