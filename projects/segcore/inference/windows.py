"""Masks that are resized window by window, never as a whole."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.functional import bilinear
from segcore.inference.masks import resize_mask_logits

Size = tuple[int, int]

# On CPUs, PyTorch computes outputs of at most this many rows + columns by another formula.
_SMALL_OUTPUT = 128
# Rounding errors of two interpolations, in units of the last place.
_ROUNDING = 8


class Window(NamedTuple):
    """Rows and columns of an image."""

    rows: slice
    columns: slice

    @property
    def size(self) -> Size:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def num_pixels(self) -> int:
        height, width = self.size
        return height * width


def row_windows(size: Size, num_pixels: int) -> Iterator[Window]:
    """Yield windows of whole rows that cover a map, each of about so many pixels."""
    height, width = size
    rows = max(1, num_pixels // max(1, width))
    for top in range(0, height, rows):
        yield Window(slice(top, min(top + rows, height)), slice(0, width))


class AxisResize:
    """Linear interpolation along one axis, with the arithmetic of PyTorch's CPU kernel.

    Args:
        size, output_size: length of the axis before and after.
        dtype: type of the maps.
    """

    def __init__(self, size: int, output_size: int, dtype: torch.dtype, device: torch.device):
        self.identity = size == output_size
        compute_dtype = torch.promote_types(dtype, torch.float32)
        scale = torch.tensor(size, dtype=compute_dtype) / output_size
        centers = torch.arange(output_size, dtype=compute_dtype) + 0.5
        # addcmul rounds once, as the kernel does.
        source = torch.addcmul(scale.new_tensor(-0.5), centers, scale).clamp_(min=0)
        # The kernel takes the floor in float32 for double, too.
        lower = source.float().floor().long().clamp_(max=size - 1)
        weight = (source - lower).clamp_(0, 1).to(dtype)
        upper = (lower + 1).clamp_(max=size - 1)
        self._first, self._last = lower.tolist(), upper.tolist()
        self._lower, self._upper = lower.to(device), upper.to(device)
        self._upper_weight = weight.to(device, compute_dtype)
        self._lower_weight = (1 - weight).to(device, compute_dtype)

    def source(self, part: slice) -> slice:
        """Return the positions of the input that a part of the output needs."""
        if self.identity:
            return part
        return slice(self._first[part.start], self._last[part.stop - 1] + 1)

    def __call__(self, maps: Tensor, part: slice, dim: int) -> Tensor:
        """Compute ``part`` of the output along ``dim`` from the input at ``source(part)``.

        Half precision becomes float32, without rounding.
        """
        if self.identity:
            return maps
        start = self._first[part.start]
        lower, upper = self._lower[part] - start, self._upper[part] - start
        shape = [-1 if axis == dim else 1 for axis in range(maps.dim())]
        result = _take(maps, upper, dim).to(self._upper_weight.dtype)
        result *= self._upper_weight[part].view(shape)
        return result.addcmul_(
            _take(maps, lower, dim).to(self._lower_weight.dtype),
            self._lower_weight[part].view(shape),
        )


def _take(maps: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return some positions (n,) of maps (N, h, w) along dimension 1 or 2."""
    if dim == 1:
        return maps.index_select(1, index)
    # Along the last dimension twice as fast as index_select.
    return maps.gather(2, index.expand(*maps.shape[:2], -1))


class BilinearResize:
    """Bilinear interpolation of maps (N, h, w) to (N, H, W), align_corners False, by windows.

    Equal to :func:`segcore.functional.bilinear` of the whole map, bit for bit on CPUs.
    """

    def __init__(self, size: Size, output_size: Size, dtype: torch.dtype, device: torch.device):
        self.size = size
        self.output_size = output_size
        self._rows, self._columns = (
            AxisResize(length, output_length, dtype, device)
            for length, output_length in zip(size, output_size, strict=True)
        )

    def source(self, window: Window) -> Window:
        """Return the window of the input that a window of the output needs."""
        return Window(self._rows.source(window.rows), self._columns.source(window.columns))

    def __call__(self, maps: Tensor, window: Window) -> Tensor:
        """Compute a window of the output from the window ``source(window)`` of the input."""
        columns = self._columns(maps, window.columns, 2)
        return self._rows(columns, window.rows, 1).to(maps.dtype)


class ResizedMasks:
    """Resize masks as :func:`~segcore.inference.masks.resize_mask_logits`, window by window.

    Args:
        masks: (N, h, w), as the network gives them.
        padded_size, image_size, output_size: see ``resize_mask_logits``.
        small_at_once: resize to small sizes as a whole, without windows.

    Attributes:
        size: (H, W) of the result.
    """

    def __init__(
        self,
        masks: Tensor,
        padded_size: Size,
        image_size: Size | None = None,
        output_size: Size | None = None,
        *,
        small_at_once: bool = True,
    ):
        sizes = [padded_size] if image_size is None else [padded_size, output_size or image_size]
        self.size = sizes[-1]
        self._steps: list[BilinearResize] = []
        if small_at_once and sum(self.size) <= _SMALL_OUTPUT:
            masks = resize_mask_logits(masks, padded_size, image_size, output_size)
        else:
            height, width = image_size or padded_size
            if small_at_once and len(sizes) > 1 and sum(padded_size) <= _SMALL_OUTPUT:
                masks = bilinear(masks, sizes.pop(0))[:, :height, :width]
            size = masks.shape[1:]
            for target in sizes:
                self._steps.append(BilinearResize(size, target, masks.dtype, masks.device))
                size = (height, width)
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def steps(self) -> list[tuple[Size, Size]]:
        """Sizes before and after each interpolation; what it starts from may be larger."""
        return [(step.size, step.output_size) for step in self._steps]

    def window(
        self,
        window: Window,
        masks: Tensor | None = None,
        *,
        before_last_step: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return a window of the masks with these indices (n,), by default all: (n, rows, columns).

        Args:
            before_last_step: applied to the input (n, h, w) of the last interpolation.
        """
        windows = [window]
        for step in reversed(self._steps):
            windows.append(step.source(windows[-1]))
        rows, columns = windows.pop()
        values = self.masks[:, rows, columns]
        if masks is not None:
            values = values[masks]
        for step in self._steps:
            if before_last_step is not None and step is self._steps[-1]:
                values = before_last_step(values)
            values = step(values, windows.pop())
        return values

    def bounds(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return a lower and an upper bound (N,) of the values of each mask in a window."""
        for step in reversed(self._steps):
            window = step.source(window)
        values = self.masks[:, window.rows, window.columns]
        low, high = values.amin(dim=(1, 2)), values.amax(dim=(1, 2))
        slack = _ROUNDING * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
        return low - slack, high + slack

    def windows(self, bytes_per_pixel: int, limit: int) -> Iterator[Window]:
        """Yield windows that cover the image, row by row, each with at most ``limit`` bytes."""
        height, width = self.size
        # A window of a result that is smaller than its source needs more pixels than it has.
        shrinking = max(
            [1, *(a * b / (c * d) for (a, b), (c, d) in ((s.size, self.size) for s in self._steps))]
        )
        side = max(1, int((limit / (bytes_per_pixel * shrinking)) ** 0.5))
        rows = min(height, side)
        columns = max(1, min(width, side * side // max(1, rows)))
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                yield Window(
                    slice(top, min(top + rows, height)), slice(left, min(left + columns, width))
                )
