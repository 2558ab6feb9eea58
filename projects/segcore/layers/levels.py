"""Maps of several feature levels as one sequence of tokens, level after level, row by row."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.layers.position_encoding import SinePositionEncoding


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Join maps (B, C, H_l, W_l) to tokens (B, sum of H_l * W_l, C)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)


def token_encodings(
    encoding: SinePositionEncoding,
    maps: Sequence[Tensor],
    padding_masks: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return position encodings of the tokens of each map.

    Args:
        maps: (B, C, H_l, W_l); only their sizes and device count.
        padding_masks: bool (B, H_l, W_l) of each, see :class:`SinePositionEncoding`.

    Returns:
        (1, H_l * W_l, 2F) of each map, or (B, H_l * W_l, 2F) with masks.
    """
    masks = padding_masks or [None] * len(maps)
    return [
        encoding(level.shape[-2:], device=level.device, padding_mask=mask)
        .flatten(2)
        .transpose(1, 2)
        for level, mask in zip(maps, masks, strict=True)
    ]


def level_positions(encodings: Sequence[Tensor], level_embed: Tensor) -> Tensor:
    """Add the embedding of its level to each position encoding, and join them.

    Args:
        encodings: (B or 1, S_l, C) of each level.
        level_embed: (levels, C).

    Returns:
        (B or 1, sum of S_l, C) in the type of the embeddings.
    """
    return torch.cat(
        [
            (tokens + embedding).to(embedding.dtype)
            for tokens, embedding in zip(encodings, level_embed, strict=True)
        ],
        dim=1,
    )


def grid_reference_points(
    spatial_shapes: Sequence[tuple[int, int]],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the center of each token's cell, (S, 2) as (x, y) in [0, 1]."""
    levels = []
    for height, width in spatial_shapes:
        y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        levels.append(torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1))
    return torch.cat(levels)


def pad_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad maps (..., h, w) to (..., H, W) with zeros at the bottom and on the right."""
    (height, width), (padded_height, padded_width) = maps.shape[-2:], size
    if (height, width) == (padded_height, padded_width):
        return maps
    return F.pad(maps, (0, padded_width - width, 0, padded_height - height))
