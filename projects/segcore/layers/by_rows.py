"""Row-wise functions applied in parts that fit a CPU's cache."""

from collections.abc import Callable

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
    at_once = not takes_rows(x) or x.shape[0] * x.shape[1] <= ROWS
    if at_once and out is None:
        return function(*tensors)
    if at_once:
        return out.copy_(function(*tensors))
    parts = [tensor.split(max(1, ROWS // x.shape[0]), dim=1) for tensor in tensors]
    start = 0
    for part in zip(*parts, strict=True):
        rows = function(*part)
        if out is None:
            out = rows.new_empty(rows.shape[0], x.shape[1], *rows.shape[2:])
        out[:, start : start + rows.shape[1]] = rows
        start += rows.shape[1]
    return out


def takes_rows(x: Tensor) -> bool:
    """Whether :func:`by_rows` calls a function with a part of many rows of x at a time."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu")
