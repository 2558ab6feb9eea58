"""Convolutions with a frozen batch norm, a residual and an activation in one operator."""

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.linear import activate, linear
from segcore.layers.onednn import Activation


class Geometry(NamedTuple):
    """Arguments of a convolution besides tensors."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @property
    def is_pointwise(self) -> bool:
        """Whether a 1x1 convolution with these is a linear layer of each pixel."""
        return set(self.stride) == {1} and set(self.padding) == {0} and self.groups == 1


def convolve(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    added: Tensor | None = None,
    *,
    overwrite_added: bool = False,
) -> Tensor:
    """Return ``activation(module(x) + added)``, in one operator where that is possible.

    Batch norms with fixed statistics are folded into the weight. The result is channels-last where
    oneDNN computes it.

    Args:
        module: ``nn.Conv2d`` or Detectron2's ``Conv2d``, with its norm and activation.
        x: (B, C, H, W).
        added: of the size of the result.
        overwrite_added: the memory of ``added`` may be used for the result, without gradients.
    """
    norm = getattr(module, "norm", None)
    if not _takes(module, x, norm):
        x = module(x)
        return activate(x if added is None else x + added, activation)
    if norm is None or _is_frozen(norm):
        weight, bias = _folded(module, norm)
        norm = None
    else:
        weight, bias = module.weight, module.bias
    geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)
    own_activation = getattr(module, "activation", None)
    if own_activation is F.relu and norm is None and added is None:
        own_activation, activation = None, "relu"
    if norm is None and own_activation is None:
        return _conv2d(x, weight, bias, geometry, activation, added, overwrite_added)
    x = _conv2d(x, weight, bias, geometry)
    for function in (norm, own_activation):
        x = x if function is None else function(x)
    return activate(x if added is None else x + added, activation)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or a part of it has hooks that its forward pass calls."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _takes(module: nn.Conv2d, x: Tensor, norm: nn.Module | None) -> bool:
    return (
        onednn.is_usable(x, module.weight, module.bias)
        and x.dtype == module.weight.dtype
        and x.numel() > 0
        and isinstance(module.padding, tuple)
        and module.padding_mode == "zeros"
        and not has_hooks(module)
    )


def _is_frozen(norm: nn.Module) -> bool:
    """Whether a norm is an affine function of each channel."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return (
        isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
        and not norm.training
        and norm.track_running_stats
        and norm.affine
    )


# Folded weights, by convolution, with the tensors' state that they were made of.
_FOLDED: WeakKeyDictionary[nn.Conv2d, tuple[object, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _folded(module: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a convolution with its norm."""
    if norm is None:
        return module.weight, module.bias
    if torch.is_grad_enabled():
        return _fold(module, norm)
    tensors = (module.weight, module.bias, *norm.parameters(), *norm.buffers())
    if any(t is not None and t.is_inference() for t in tensors):  # they have no version
        return _fold(module, norm)
    state = [None if t is None else (t.data_ptr(), t._version) for t in tensors]
    if module not in _FOLDED or _FOLDED[module][0] != state:
        _FOLDED[module] = (state, _fold(module, norm))
    return _FOLDED[module][1]


def _fold(module: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias * scale
    weight = module.weight * scale[:, None, None, None].to(module.weight.dtype)
    return weight, shift.to(module.weight.dtype)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: Activation = "none",
    added: Tensor | None = None,
    overwrite_added: bool = False,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, added)
    )
    if needs_gradient:
        return _Convolution.apply(x, weight, bias, added, geometry, activation)
    if added is not None and not overwrite_added:
        added = added.clone(memory_format=torch.channels_last)
    return onednn.conv2d(x, weight, bias, *geometry, activation, added)


class _Convolution(torch.autograd.Function):
    """oneDNN's convolution with its gradient; that of 1x1 is one of linear layers."""

    @staticmethod
    def forward(ctx, x, weight, bias, added, geometry: Geometry, activation: Activation) -> Tensor:
        if added is not None:
            added = added.clone(memory_format=torch.channels_last)
        output = onednn.conv2d(x, weight, bias, *geometry, activation, added)
        ctx.save_for_backward(x, weight, output if activation == "relu" else None)
        ctx.geometry = geometry
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, output = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_added, *_ = ctx.needs_input_grad
        if output is not None:
            grad = torch.ops.aten.threshold_backward(grad, output, 0)
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_added = grad if needs_added else None
        if weight.shape[2:] == (1, 1) and ctx.geometry.is_pointwise:
            rows, matrix = grad.movedim(1, -1), weight[:, :, 0, 0]
            grad_x = linear(rows, matrix.t()).movedim(-1, 1) if needs_x else None
            grad_weight = grad_bias = None
            if needs_weight:
                grad_weight = rows.flatten(0, 2).t() @ x.movedim(1, -1).flatten(0, 2)
                grad_weight = grad_weight[:, :, None, None]
            if needs_bias:
                grad_bias = rows.flatten(0, 2).sum(0)
        else:
            stride, padding, dilation, groups = map(_as_list, ctx.geometry)
            grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                grad,
                x,
                weight,
                [len(weight)] if needs_bias else None,
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                [needs_x, needs_weight, needs_bias],
            )
        return grad_x, grad_weight, grad_bias, grad_added, None, None


def _as_list(value: int | Sequence[int]) -> int | list[int]:
    return value if isinstance(value, int) else list(value)
