"""A convolution with an affine function of channels, a residual and ReLU, differentiable."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segcore.layers import onednn
from segcore.layers.linear import linear


class Geometry(NamedTuple):
    """Geometry of a convolution, as ``F.conv2d`` takes it."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def is_pointwise(self, weight: Tensor) -> bool:
        """Whether the convolution is a linear layer on the pixels that its stride leaves."""
        return tuple(weight.shape[2:]) == (1, 1) and not any(self.padding) and self.groups == 1


class FoldedConvolution(torch.autograd.Function):
    """``relu(conv2d(x, weight) * scale + shift + added)`` by one operator of oneDNN, once
    differentiable in ``x``, ``weight`` and ``added``.

    It keeps what the operators one by one would keep, the input and the result of ReLU, and writes
    nothing between them. The folded weight is made again for the gradient.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        added: Tensor | None,
        overwrite_added: bool,
        geometry: Geometry,
        relu: bool,
    ) -> Tensor:
        """
        Args:
            x: (B, C, H, W), channels-last.
            weight: (D, C / groups, h, w).
            scale, shift: (D,), constant.
            added: of the size of the result, or None.
            overwrite_added: write the result to the memory of ``added``.
            relu: apply ReLU.

        Returns:
            (B, D, H', W'), channels-last.
        """
        if overwrite_added:
            ctx.mark_dirty(added)
        elif added is not None:
            added = added.clone(memory_format=torch.channels_last)
        activation = "relu" if relu else "none"
        out = onednn.conv2d(x, _folded(weight, scale), shift, *geometry, activation, added)
        ctx.save_for_backward(x, weight, scale, out if relu else None)
        ctx.geometry = geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, scale, out = ctx.saved_tensors
        needs_x, needs_weight, _, _, needs_added, *_ = ctx.needs_input_grad
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        gradients = _pointwise_gradients if ctx.geometry.is_pointwise(weight) else _gradients
        grad_x, grad_weight = gradients(
            grad, x, _folded(weight, scale), ctx.geometry, (needs_x, needs_weight)
        )
        if grad_weight is not None:
            grad_weight.mul_(scale[:, None, None, None])
        return grad_x, grad_weight, None, None, grad if needs_added else None, None, None, None


def _folded(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale[:, None, None, None]


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a convolution's input and weight, those that are needed."""
    stride, padding, dilation, groups = geometry
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (*needed, False)
    )
    return grad_x, grad_weight


def _pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return :func:`_gradients` of a 1x1 convolution, as products of its pixels' rows: PyTorch's
    are slow on a CPU with few channels, and with a stride."""
    down, right = geometry.stride
    strided = x[:, :, ::down, ::right]
    grad_rows = grad.movedim(1, -1).flatten(0, 2)
    grad_x = grad_weight = None
    if needed[0]:
        rows = linear(grad_rows, weight.flatten(1).t())
        grad_x = rows.unflatten(0, (len(grad), *grad.shape[2:])).movedim(-1, 1)
        if strided.shape != x.shape:
            spread = torch.zeros_like(x)
            spread[:, :, ::down, ::right] = grad_x
            grad_x = spread
    if needed[1]:
        x_rows = strided.movedim(1, -1).flatten(0, 2)
        # MKL takes less time for the narrower result of the two.
        narrow = grad_rows.shape[1] <= x_rows.shape[1]
        product = grad_rows.t() @ x_rows if narrow else (x_rows.t() @ grad_rows).t()
        grad_weight = product[:, :, None, None]
    return grad_x, grad_weight
