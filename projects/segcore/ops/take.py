"""Selection of tokens."""

import torch
from torch import Tensor


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Select tokens by index, image by image.

    Args:
        tokens: (B, N, ...)
        indices: (B, ...) integers from 0 to N - 1, not checked

    Returns:
        (B, ..., ...): the shape of ``indices``, then that of a token
    """
    first = torch.arange(len(tokens), device=tokens.device) * tokens.shape[1]
    first = first.view(-1, *(1,) * (indices.dim() - 1))
    flat = tokens.flatten(0, 1).index_select(0, (indices + first).flatten())
    return flat.unflatten(0, indices.shape)
