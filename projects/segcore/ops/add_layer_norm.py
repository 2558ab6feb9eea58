"""A residual added in place, and the layer norm of the sum (a step of every transformer block)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ._checks import check_same_device, check_same_type, check_shape
from ._operator import operator


class Arguments(NamedTuple):
    """Checked arguments."""

    x: Tensor
    added: Tensor | None
    weight: Tensor
    bias: Tensor
    eps: float
    out: Tensor


def _normalize(a: Arguments) -> None:
    if a.added is not None:
        a.x.add_(a.added)
    a.out.copy_(F.layer_norm(a.x, a.weight.shape, a.weight, a.bias, a.eps))


@operator(Arguments, reference=_normalize, fake=lambda a: None, cpu_only=True)
def add_layer_norm_(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    out: Tensor,
) -> Arguments:
    """Add a residual in place, and write the layer norm of the sum.

    ``x += added``, ``out = F.layer_norm(x, ...)``, row by row in a core's first-level cache. The
    compiled kernel runs on CPUs, elsewhere :func:`add_layer_norm_reference`. No gradient.

    Args:
        x: (..., C), float64, float32, float16 or bfloat16, contiguous; takes the sum. Statistics
            of half types are in float32.
        added: of the shape of x, contiguous; None: nothing is added.
        weight, bias: (C,).
        eps: added to the variance.
        out: of the shape of x, contiguous; takes the norm. It may be x, whose sum is then lost.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
        RuntimeError: memory is not contiguous
    """
    tensors = {"x": x, "weight": weight, "bias": bias, "out": out}
    for name in ("weight", "bias"):
        check_shape(name, tensors[name], x.shape[-1:])
    check_shape("out", out, x.shape)
    if added is not None:
        check_shape("added", added, x.shape)
        tensors["added"] = added
    check_same_device(**tensors)
    check_same_type(half_types=True, **tensors)
    return Arguments(x, added, weight.detach(), bias.detach(), eps, out)


add_layer_norm_reference = add_layer_norm_.reference
