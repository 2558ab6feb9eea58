"""oneDNN's linear layers and convolutions on CPUs, with fused activations.

``F.linear`` multiplies with MKL, and ``F.conv2d`` leaves 1x1 convolutions to it where there is one
thread. oneDNN takes less time for large products, and adds bias, residual and activation before it
writes a result. PyTorch has it as the operators of ``torch.compile``, which have no public name:
they are used behind one test of what they return, on the processors on which they were measured.
"""

import platform
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["none", "relu", "gelu"]


def is_usable(*tensors: Tensor | None) -> bool:
    """Whether the tensors are ones that oneDNN takes and nothing traces or casts the operators."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(t is None or _is_plain(t) for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
        and has_operators()
    )


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    """Apply a linear layer and an activation to (..., in_features); not differentiable.

    Args:
        weight: (out_features, in_features), as it is or reordered by :func:`reordered`.
    """
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, activation, [], "none" if activation == "gelu" else ""
    )


def reordered(weight: Tensor, rows: int) -> Tensor:
    """Return the weight of a linear layer in the order in which :func:`linear` reads it.

    Args:
        rows: number of rows that the layer is expected to be applied to.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: Activation = "none",
    added: Tensor | None = None,
) -> Tensor:
    """Convolve (B, C, H, W), add a map and apply an activation; not differentiable.

    Args:
        added: of the size of the result, which is written to its memory.
    """
    operators = torch.ops.mkldnn
    geometry = (list(padding), list(stride), list(dilation), groups)
    if added is None:
        return operators._convolution_pointwise(x, weight, bias, *geometry, activation, [], "")
    unary = None if activation == "none" else activation
    return operators._convolution_pointwise_.binary(
        added, x, weight, bias, *geometry, "add", 1.0, unary, [], ""
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds float32 or bfloat16 of a CPU, and no subclass acts on operators."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
    )


@cache
def has_operators() -> bool:
    """Whether PyTorch has the operators for this processor, and they return what they should."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    # Small integers, whose products are exact in any order.
    x = torch.arange(12.0).view(3, 4) - 5
    weight = torch.arange(8.0).view(2, 4) - 3
    bias = torch.tensor([1.0, -2.0])
    expected = (x @ weight.T + bias).relu()
    try:
        results = [
            linear(x, weight, bias, "relu"),
            linear(x, reordered(weight, 3), bias, "relu"),
            conv2d(
                x.T[None, :, None], weight[..., None, None], bias, (1, 1), (0, 0), (1, 1), 1, "relu"
            )[0, :, 0].T,
            conv2d(
                x.T[None, :, None],
                weight[..., None, None],
                None,
                (1, 1),
                (0, 0),
                (1, 1),
                1,
                "relu",
                bias.view(1, 2, 1, 1).repeat(1, 1, 1, 3),
            )[0, :, 0].T,
        ]
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return all(torch.equal(result, expected) for result in results)
