"""Operations on masks: resizing, areas, boxes."""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (N, h, w) to (N, H, W), with align_corners False and no antialiasing."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def mask_areas(masks: Tensor) -> Tensor:
    """Count the pixels of each of bool masks (N, H, W): int64 (N,)."""
    # A sum of booleans first makes a copy of int64, eight times as large.
    return torch.cat([chunk.sum(dim=(1, 2)) for chunk in masks.split(MASKS_PER_CHUNK)])


def sum_inside(values: Tensor, masks: Tensor) -> Tensor:
    """Sum values (N, H, W) where bool masks (N, H, W) are set: (N,), at least float32."""
    dtype = torch.promote_types(values.dtype, torch.float32)  # a half cannot count pixels
    return torch.where(masks, values, 0).sum(dim=(1, 2), dtype=dtype)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return tight boxes (N, 4) of bool masks (N, H, W): float32 (x0, y0, x1, y1), pixel edges.

    The box of a mask with one pixel (x, y) is (x, y, x + 1, y + 1), that of an empty one all 0.
    """
    pixels = masks.view(torch.uint8)  # which a CPU reduces 20 times faster than bool
    x0, x1 = _extent(pixels.amax(dim=1).bool())
    y0, y1 = _extent(pixels.amax(dim=2).bool())
    return torch.stack((x0, y0, x1, y1), dim=1).to(torch.float32)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first True index of each row of bool (N, L), and one past the last; 0 if none."""
    index = torch.arange(occupied.shape[1], device=occupied.device)
    end = (occupied * (index + 1)).amax(dim=1)
    start = torch.where(occupied, index, occupied.shape[1]).amin(dim=1)
    return torch.where(end > 0, start, 0), end
