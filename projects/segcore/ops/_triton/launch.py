"""Launches of Triton kernels: extents of tiles, types."""

import torch
import triton
import triton.language as tl
from torch import Tensor

TYPES = {torch.float64: tl.float64, torch.float32: tl.float32}


def tile_extent(count: int) -> tl.constexpr:
    """Return the least power of 2 that is at least ``count``: tiles have such extents."""
    return tl.constexpr(triton.next_power_of_2(max(count, 1)))


def index_type(*tensors: Tensor) -> tl.constexpr:
    """Return the type that holds the offset of every element: int32 where it is enough."""
    last = max(
        sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        for tensor in tensors
    )
    return tl.constexpr(tl.int32 if last < 2**31 else tl.int64)


def launch(kernel, programs: int, *arguments, num_warps: int) -> None:
    """Start ``programs`` programs of ``kernel(*arguments)`` on the present device and stream."""
    if programs:
        kernel[(programs,)](*arguments, num_warps=num_warps)
