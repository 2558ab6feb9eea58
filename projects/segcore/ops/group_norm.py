"""Group norm in place, with a coarser map and ReLU (an FPN's step from one map to the next)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dims, check_same_device, check_same_type, check_shape
from ._operator import operator


class Arguments(NamedTuple):
    """Checked arguments."""

    x: Tensor
    groups: int
    weight: Tensor
    bias: Tensor
    eps: float
    coarse: Tensor | None
    relu: bool


def _normalize(a: Arguments) -> None:
    result = F.group_norm(a.x, a.groups, a.weight, a.bias, a.eps)
    if a.coarse is not None:
        size = a.x.shape[2:]
        result = result + F.interpolate(a.coarse, size, mode="bilinear", align_corners=False)
    a.x.copy_(result.relu() if a.relu else result)


@operator(Arguments, reference=_normalize, fake=lambda a: None, cpu_only=True)
def group_norm_(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    coarse: Tensor | None = None,
    relu: bool = False,
) -> Arguments:
    """Normalize the channels of each group, add a coarser map and apply ReLU, in place.

    ``x = act(F.group_norm(x, ...) + F.interpolate(coarse, mode="bilinear"))``. The compiled kernel
    reads x twice and writes it once; the sums of its statistics are in float64. It runs on CPUs,
    elsewhere :func:`group_norm_reference`. No gradient.

    Args:
        x: (B, C, H, W), float64, float32, float16 or bfloat16, channels-last in memory.
        groups: a divisor of C.
        weight, bias: (C,).
        eps: added to the variance.
        coarse: (B, C, h, w), channels-last in memory.
        relu: apply ReLU to the result.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
        RuntimeError: ``x`` or ``coarse`` is not channels-last, or ``groups`` no divisor
    """
    check_dims("x", x, ("B", "C", "H", "W"))
    tensors = {"x": x, "weight": weight, "bias": bias}
    for name in ("weight", "bias"):
        check_shape(name, tensors[name], x.shape[1:2])
    if coarse is not None:
        check_dims("coarse", coarse, ("B", "C", "h", "w"))
        check_shape("coarse", coarse, (*x.shape[:2], *coarse.shape[2:]))
        tensors["coarse"] = coarse
    check_same_device(**tensors)
    check_same_type(half_types=True, **tensors)
    return Arguments(x, groups, weight.detach(), bias.detach(), eps, coarse, relu)


group_norm_reference = group_norm_.reference
