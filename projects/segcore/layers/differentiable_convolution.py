"""Convolutions of a CPU with a scale, a residual and ReLU in one operator, with their gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segcore.layers import onednn
from segcore.layers.linear import linear
from segcore.ops import winograd_conv2d
from segcore.ops._library import is_compiled
from segcore.ops.winograd_conv2d import TILE

# With fewer, the transform of the weight takes longer than what it saves.
MIN_TILES = 48


class Geometry(NamedTuple):
    """Geometry of a convolution, as ``F.conv2d`` takes it."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


class Convolution(torch.autograd.Function):
    """``relu(conv2d(x, weight) * scale + bias + added)``, once differentiable in all but ``scale``.

    It keeps what the operators one by one would keep, the input and the result of ReLU, and writes
    nothing between them. The scaled weight is made again for the gradient.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        added: Tensor | None,
        geometry: Geometry,
        relu: bool,
    ) -> Tensor:
        """
        Args:
            x: (B, C, H, W), channels-last.
            weight: (D, C / groups, h, w).
            bias, scale: (D,), of the channels, or None.
            added: of the size of the result, which is written to its memory, or None.
            relu: apply ReLU.

        Returns:
            (B, D, H', W'), channels-last.
        """
        if added is None and is_for_winograd(x, weight, geometry):
            out = winograd_conv2d(x, weight, bias, scale, relu)
        else:
            activation = "relu" if relu else "none"
            out = onednn.conv2d(x, _scaled(weight, scale), bias, *geometry, activation, added)
        if added is not None:
            ctx.mark_dirty(added)
        ctx.save_for_backward(x, weight, scale, out if relu else None)
        ctx.geometry = geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, scale, out = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _, needs_added, *_ = ctx.needs_input_grad
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_x, grad_weight = _gradients(
            grad, x, _scaled(weight, scale), ctx.geometry, (needs_x, needs_weight)
        )
        if grad_weight is not None and scale is not None:
            grad_weight.mul_(scale[:, None, None, None])
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, grad if needs_added else None, None, None


def is_for_winograd(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the compiled operator of Winograd's algorithm computes a convolution, and there are
    enough tiles for the transform of the weight."""
    batch, _, height, width = x.shape
    return (
        x.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and tuple(geometry) == ((1, 1), (1, 1), (1, 1), 1)
        and batch * -(-height // TILE) * -(-width // TILE) >= MIN_TILES
        and is_compiled("winograd_conv2d", "cpu")
    )


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale[:, None, None, None]


Gradients = tuple[Tensor | None, Tensor | None]


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> Gradients:
    """Return the gradients of a convolution's input and weight, those that are needed."""
    stride, padding, dilation, groups = geometry
    if weight.shape[2:] == (1, 1) and not any(padding) and groups == 1:
        return _pointwise_gradients(grad, x, weight, stride, needed)
    needs_x, needs_weight = needed
    grad_x = None
    if needs_x and is_for_winograd(grad, weight, geometry):
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = winograd_conv2d(grad, weight.flip(2, 3).transpose(0, 1))
        needs_x = False
    of_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        (0, 0),
        groups,
        (needs_x, needs_weight, False),
    )
    return of_x if grad_x is None else grad_x, grad_weight


def _pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], needed: tuple[bool, bool]
) -> Gradients:
    """Return the gradients of a 1x1 convolution as products of the pixels' rows: PyTorch's are
    slow on a CPU with few channels, and with a stride."""
    down, right = stride
    rows = grad.movedim(1, -1).flatten(0, 2)
    needs_x, needs_weight = needed
    grad_x = grad_weight = None
    if needs_x:
        grad_x = linear(rows, weight.flatten(1).t())
        grad_x = grad_x.unflatten(0, (len(grad), *grad.shape[2:])).movedim(-1, 1)
        if grad_x.shape != x.shape:
            spread = torch.zeros_like(x)
            spread[:, :, ::down, ::right] = grad_x
            grad_x = spread
    if needs_weight:
        pixels = x[:, :, ::down, ::right].movedim(1, -1).flatten(0, 2)
        # MKL takes less time for the narrower result.
        narrow = rows.shape[1] <= pixels.shape[1]
        product = rows.t() @ pixels if narrow else (pixels.t() @ rows).t()
        grad_weight = product[:, :, None, None]
    return grad_x, grad_weight
