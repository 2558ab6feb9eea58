"""Row-wise functions applied in parts that fit a CPU's cache."""

from collections.abc import Callable

import torch
from torch import Tensor

# Rows at a time: their temporaries are cached, and their memory is used again.
ROWS = 2048


def by_rows(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return ``function(*tensors)`` of tensors (B or 1, N, ...), whose rows it treats alike.

    In inference on a CPU it is called with a part of the rows of dimension 1 at a time, so that
    what it computes in between is not written to memory; else at once.

    Args:
        function: of tensors (B or 1, n, ...), returns (B, n, C).
    """
    x = tensors[0]
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return function(*tensors)
    if x.shape[0] * x.shape[1] <= ROWS:
        return function(*tensors)
    parts = [tensor.split(max(1, ROWS // x.shape[0]), dim=1) for tensor in tensors]
    start, result = 0, None
    for part in zip(*parts, strict=True):
        rows = function(*part)
        if result is None:
            result = rows.new_empty(rows.shape[0], x.shape[1], *rows.shape[2:])
        result[:, start : start + rows.shape[1]] = rows
        start += rows.shape[1]
    return result
