"""Windows of maps, as Swin Transformer attends in them (Liu et al., ICCV 2021, section 3.2)."""

import torch
from torch import Tensor

MASKED = -100.0


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C) into (B * windows, window^2, C), windows in row-major order."""
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x.view(batch, rows, window, columns, window, channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, window * window, channels)


def window_merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`window_partition`."""
    rows, columns, channels = height // window, width // window, windows.shape[-1]
    batch = windows.shape[0] // (rows * columns)
    x = windows.view(batch, rows, columns, window, window, channels)
    return x.transpose(2, 3).reshape(batch, height, width, channels)


def shift_mask(
    height: int, width: int, window: int, shift: tuple[int, int], like: Tensor
) -> Tensor:
    """What to add to attention in windows of a map whose rows and columns are rolled by ``-shift``.

    (windows, window^2, window^2), ``MASKED`` between cells that are no neighbors in the map.
    """

    def region(size: int, shift: int) -> Tensor:
        position = torch.arange(size, device=like.device)
        return (position >= size - window).long() + (position >= size - shift).long()

    label = 3 * region(height, shift[0])[:, None] + region(width, shift[1])
    label = window_partition(label[None, :, :, None], window).squeeze(-1)
    differs = label[:, :, None] != label[:, None, :]
    return differs.to(like.dtype) * MASKED
