"""Row-wise functions applied in parts that fit a CPU's cache."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Rows at a time: their temporaries are cached, and their memory is used again.
ROWS = 2048


def by_rows(function: Callable[..., Tensor], *tensors: Tensor, out: Tensor | None = None) -> Tensor:
    """Return ``function(*tensors)`` of tensors (B or 1, N, ...), whose rows it treats alike.

    In inference on a CPU it is called with a part of the rows of dimension 1 at a time, so that
    what it computes in between is not written to memory; else at once.

    Args:
        function: of tensors (B or 1, n, ...), returns (B, n, ...).
        out: (B, N, ...), takes the result; without gradients.
    """
    x = tensors[0]
    if not takes_rows(x) or x.shape[0] * x.shape[1] <= ROWS:
        rows = function(*tensors)
        return rows if out is None else out.copy_(rows)
    start = 0
    for part in split_rows(*tensors):
        rows = function(*part)
        if out is None:
            out = rows.new_empty(rows.shape[0], x.shape[1], *rows.shape[2:])
        out[:, start : start + rows.shape[1]] = rows
        start += rows.shape[1]
    return out


def split_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Return views of tensors (B or 1, N, ...), parts of dimension 1 in the fewest equal steps of
    at most ``ROWS`` rows of all images."""
    images, rows = tensors[0].shape[:2]
    steps = max(1, -(-rows // max(1, ROWS // max(1, images))))
    return zip(*(tensor.tensor_split(steps, dim=1) for tensor in tensors), strict=True)


def takes_rows(x: Tensor) -> bool:
    """Whether :func:`by_rows` calls a function with a part of many rows of x at a time."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu")
