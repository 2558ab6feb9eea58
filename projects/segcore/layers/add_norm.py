"""Residual and layer norm in one pass."""

import torch
from torch import Tensor, nn

from segcore.layers.by_rows import takes_rows
from segcore.layers.convolution import has_hooks
from segcore.ops import add_layer_norm_
from segcore.ops._library import is_compiled


def add_norm_(norm: nn.LayerNorm, x: Tensor, added: Tensor, out: Tensor | None = None) -> Tensor:
    """Add ``added`` to x in place, and return ``norm(x)``; without gradients.

    Args:
        x: (..., C), new memory that the caller owns.
        out: of the shape of x, takes the result. It may be x, whose sum is then lost.
    """
    if _takes(norm, x, added) and (out is None or out.is_contiguous()):
        out = torch.empty_like(x) if out is None else out
        add_layer_norm_(x, added, norm.weight, norm.bias, norm.eps, out=out)
        return out
    normalized = norm(x.add_(added))
    return normalized if out is None else out.copy_(normalized)


def _takes(norm: nn.LayerNorm, x: Tensor, added: Tensor) -> bool:
    return (
        takes_rows(x)
        and type(norm) is nn.LayerNorm
        and norm.weight is not None
        and norm.bias is not None
        and norm.normalized_shape == x.shape[-1:]
        and x.dtype == added.dtype == norm.weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_contiguous()
        and added.is_contiguous()
        and not has_hooks(norm)
        and is_compiled("add_layer_norm_", "cpu")
    )
