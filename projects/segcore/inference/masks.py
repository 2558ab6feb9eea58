"""Operations on masks: resizing, areas, sums."""

import torch
from torch import Tensor

from segcore.functional import bilinear

# Masks that a step takes at a time: bounds the temporary memory, and a CPU's cache holds it.
MASKS_PER_CHUNK = 4
# Rows of pixels that a step takes at a time have about this many pixels, for the same reason.
PIXELS_PER_CHUNK = 1 << 16


def resize_mask_logits(
    mask_logits: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int] | None = None,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Resize mask logits (Q, h, w) of the network to the size of the result, (Q, H, W).

    Bilinear (align_corners False) to ``padded_size``, the size of the network's input; then, with
    ``image_size``, cut to it and bilinear to ``output_size``. The padded size is never held for all
    masks at once.
    """
    if image_size is None:
        return bilinear(mask_logits, padded_size)
    output_size = output_size or image_size
    resized = mask_logits.new_empty((len(mask_logits), *output_size))
    height, width = image_size
    for source, target in zip(
        mask_logits.split(MASKS_PER_CHUNK), resized.split(MASKS_PER_CHUNK), strict=True
    ):
        image = bilinear(source, padded_size)[:, :height, :width]
        target.copy_(bilinear(image, output_size))
    return resized


def mask_areas(masks: Tensor) -> Tensor:
    """Count the pixels of each of bool masks (N, H, W): int64 (N,)."""
    # A sum of booleans first makes a copy of int64, eight times as large.
    return torch.cat([chunk.sum(dim=(1, 2)) for chunk in masks.split(MASKS_PER_CHUNK)])


def sum_inside(values: Tensor, masks: Tensor) -> Tensor:
    """Sum values (N, H, W) where bool masks (N, H, W) are set: (N,), at least float32."""
    dtype = torch.promote_types(values.dtype, torch.float32)  # a half cannot count pixels
    return torch.where(masks, values, 0).sum(dim=(1, 2), dtype=dtype)
