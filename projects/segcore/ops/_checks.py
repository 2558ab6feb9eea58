"""Checks of the arguments of operators: each message names the argument, what was expected and
what came."""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUE_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INDEX_TYPES = (torch.int64, torch.int32)


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse all but tensors of float64, float32, float16 or bfloat16."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in VALUE_TYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in VALUE_TYPES)
        raise TypeError(f"{name}: expected one of {expected}, got {tensor.dtype}")


def check_same_type(*, half_types: bool = False, **tensors: Tensor) -> None:
    """Refuse tensors that are not all of the type of the first: float32, float64, or half types
    where they are allowed."""
    (first, reference), *others = tensors.items()
    if half_types:
        check_floating(first, reference)
    elif reference.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{first}: expected float32 or float64, got {reference.dtype}")
    for name, tensor in others:
        if tensor.dtype != reference.dtype:
            raise TypeError(
                f"{name}: expected the type of {first}, {reference.dtype}, got {tensor.dtype}"
            )


def check_indices(name: str, tensor: Tensor) -> None:
    """Refuse all but tensors of int64 or int32."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in INDEX_TYPES:
        raise TypeError(f"{name}: expected int64 or int32, got {tensor.dtype}")


def check_dims(name: str, tensor: Tensor, dims: Sequence[str]) -> None:
    """Refuse a tensor with another number of dimensions than ``dims`` has names."""
    if tensor.dim() != len(dims):
        raise ValueError(f"{name}: expected shape ({', '.join(dims)}), got {tuple(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Refuse a tensor of another shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(tensor.shape)}")


def check_same_device(**tensors: Tensor) -> None:
    """Refuse tensors that are not all on the device of the first."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != reference.device:
            raise ValueError(
                f"{name}: expected the device of {first}, {reference.device}, got {tensor.device}"
            )


def accumulation_type(tensor: Tensor) -> torch.dtype:
    """Return the type that sums over values are accumulated in: float64 or float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def as_canvas_size(canvas: Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a canvas, checked to be at least 1."""
    if len(canvas) != 2:
        raise ValueError(f"canvas: expected (height, width), got {canvas}")
    height, width = canvas
    if height < 1 or width < 1:
        raise ValueError(f"canvas: expected sides of at least 1, got {height} x {width}")
    return height, width


def as_level_sizes(
    spatial_shapes: Sequence[Sequence[int]] | Tensor, num_tokens: int
) -> list[tuple[int, int]]:
    """Return (height, width) of every level, checked to have ``num_tokens`` cells together."""
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.device.type != "cpu" or spatial_shapes.dtype != torch.int64:
            raise TypeError(
                "spatial_shapes: expected (height, width) integers or a CPU int64 tensor, got "
                f"{spatial_shapes.dtype} on {spatial_shapes.device}"
            )
        check_dims("spatial_shapes", spatial_shapes, ("levels", "2"))
        spatial_shapes = spatial_shapes.tolist()
    if any(len(size) != 2 for size in spatial_shapes):
        raise ValueError(f"spatial_shapes: expected (height, width) pairs, got {spatial_shapes}")
    sizes = [(height, width) for height, width in spatial_shapes]
    if any(height < 1 or width < 1 for height, width in sizes):
        raise ValueError(f"spatial_shapes: expected sizes of at least 1, got {sizes}")
    tokens = sum(height * width for height, width in sizes)
    if tokens != num_tokens:
        raise ValueError(f"spatial_shapes: {sizes} have {tokens} cells, value has {num_tokens}")
    return sizes
