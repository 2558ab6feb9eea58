"""Maps of several feature levels as one sequence of tokens, level after level, row by row."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.layers.position_encoding import SinePositionEncoding


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Join maps (B, C, H_l, W_l) to tokens (B, sum of H_l * W_l, C)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)


def level_positions(
    encoding: SinePositionEncoding,
    level_embed: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    padding_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return position encodings of the tokens of all levels plus the embedding of their level.

    Args:
        level_embed: (levels, C).
        spatial_shapes: (H, W) of each level.
        padding_masks: bool (B, H, W) of each level, see :class:`SinePositionEncoding`.

    Returns:
        (1, S, C), or (B, S, C) with masks.
    """
    masks = padding_masks or [None] * len(spatial_shapes)
    encodings = [
        encoding(shape, device=level_embed.device, padding_mask=mask).flatten(2).transpose(1, 2)
        for shape, mask in zip(spatial_shapes, masks, strict=True)
    ]
    return torch.cat(
        [tokens + embedding for tokens, embedding in zip(encodings, level_embed, strict=True)],
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
