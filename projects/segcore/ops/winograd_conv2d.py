"""3x3 convolutions with a quarter of the multiplications (Lavin and Gray, 2016, F(4x4, 3x3))."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dims, check_same_device, check_same_type, check_shape
from ._operator import operator

# 4x4 results come from 6x6 inputs.
TILE, PATCH = 4, 6

# Toom and Cook's algorithm evaluates polynomials at 0, a, -a, b, -b and infinity. With these
# numbers, whose powers are exact in float32, errors are half of those with the usual 1 and 2.
_A, _B = 3 / 4, 3 / 2


class Arguments(NamedTuple):
    """Checked arguments."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    relu: bool


def _transform(weight: Tensor) -> Tensor:
    """Return the factors of the products, (36, C, K)."""
    points = torch.tensor([0, _A, -_A, _B, -_B], dtype=torch.float64, device=weight.device)
    powers = points[:, None] ** torch.arange(3, device=weight.device)
    differences = points[:, None] - points + torch.eye(5, device=weight.device)
    finite = powers / differences.prod(dim=1, keepdim=True)
    at_infinity = finite.new_tensor([[0, 0, 1]])
    matrix = torch.cat([finite, at_infinity]).to(weight.dtype)
    return torch.einsum("pi,kcij,qj->pqck", matrix, weight, matrix).flatten(0, 1)


def _convolve(a: Arguments) -> Tensor:
    """The transforms as matrix products. B^T, of inputs, has the coefficients of the products of
    the other points' linear factors; A^T, of results, the powers of the points."""
    aa, bb = _A * _A, _B * _B
    of_inputs = [
        [aa * bb, 0, -aa - bb, 0, 1, 0],
        [0, -_A * bb, -bb, _A, 1, 0],
        [0, _A * bb, -bb, -_A, 1, 0],
        [0, -aa * _B, -aa, _B, 1, 0],
        [0, aa * _B, -aa, -_B, 1, 0],
        [0, aa * bb, 0, -aa - bb, 0, 1],
    ]
    of_results = [[float(p == 0), _A**p, (-_A) ** p, _B**p, (-_B) ** p, p == 3] for p in range(4)]
    batch, _, height, width = a.x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = F.pad(a.x, (1, columns * TILE + 1 - width, 1, rows * TILE + 1 - height))
    patches = padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE)  # (B, C, rows, columns, 6, 6)
    to_products, to_results = a.x.new_tensor(of_inputs), a.x.new_tensor(of_results)
    inputs = torch.einsum("ip,bcyxpq,jq->ijbyxc", to_products, patches, to_products)
    products = torch.bmm(inputs.flatten(2, 4).flatten(0, 1), _transform(a.weight))
    products = products.unflatten(0, (PATCH, PATCH)).unflatten(2, (batch, rows, columns))
    output = torch.einsum("pi,ijbyxk,qj->bypxqk", to_results, products, to_results)
    output = output.flatten(3, 4).flatten(1, 2)[:, :height, :width].contiguous()
    if a.scale is not None:
        output = output * a.scale
    if a.bias is not None:
        output = output + a.bias
    output = output.permute(0, 3, 1, 2)
    return output.relu() if a.relu else output


def _fake(a: Arguments) -> Tensor:
    batch, _, height, width = a.x.shape
    return a.x.new_empty(batch, height, width, len(a.weight)).permute(0, 3, 1, 2)


@operator(Arguments, reference=_convolve, fake=_fake, cpu_only=True)
def winograd_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    relu: bool = False,
) -> Arguments:
    """Convolve with a 3x3 kernel, stride 1 and padding 1, as ``F.conv2d`` to rounding.

    Returns ``conv2d(x, weight) * scale + bias``, with ReLU behind it on demand.

    In float32 the root of the mean squared error is 1.5e-6 of that of the result, that of a direct
    convolution 0.2e-6 (256 channels). The compiled kernel runs on CPUs, elsewhere
    :func:`winograd_conv2d_reference`. No gradient.

    Args:
        x: (B, C, H, W), float32 or float64, not copied if it is channels-last in memory.
        weight: (K, C, 3, 3).
        bias, scale: (K,).
        relu: apply ReLU to the result.

    Returns:
        (B, K, H, W), channels-last in memory.

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device.
    """
    check_dims("x", x, ("B", "C", "H", "W"))
    check_dims("weight", weight, ("K", "C", "3", "3"))
    check_shape("weight", weight, (len(weight), x.shape[1], 3, 3))
    tensors = {"x": x, "weight": weight}
    for name, values in (("bias", bias), ("scale", scale)):
        if values is not None:
            check_shape(name, values, (len(weight),))
            tensors[name] = values
    check_same_device(**tensors)
    check_same_type(**tensors)
    detached = (None if t is None else t.detach() for t in (x, weight, bias, scale))
    return Arguments(*detached, bool(relu))


winograd_conv2d_reference = winograd_conv2d.reference
