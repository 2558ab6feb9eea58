"""Convolutions with a frozen batch norm, a residual and an activation in one operator."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.differentiable_convolution import (
    Convolution,
    Geometry,
    is_for_winograd,
)
from segcore.layers.linear import activate
from segcore.layers.onednn import Activation
from segcore.ops import group_norm_, winograd_conv2d
from segcore.ops._library import is_compiled

Weights = tuple[Tensor, Tensor | None]

# From so many on, folding a weight takes less than a twentieth of the time of its products.
MANY_PIXELS = 512


def convolve(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    added: Tensor | None = None,
    *,
    overwrite_added: bool = False,
    coarse: Tensor | None = None,
) -> Tensor:
    """Return ``activation(module(x) + added)``, in one operator where that is possible.

    That is on CPUs: batch norms with fixed statistics are folded into the weight, in training those
    of Detectron2's frozen batch norm, and the result is channels-last.

    Args:
        module: ``nn.Conv2d`` or Detectron2's ``Conv2d``, with its norm and activation.
        x: (B, C, H, W).
        added: of the size of the result.
        overwrite_added: the memory of ``added`` may be used for the result; in training, if no
            gradient needs its values.
        coarse: (B, K, h, w), resized bilinearly to the size of the result and added.
    """
    if not _takes(module, x):
        x = _add_resized(module(x), coarse)
        return activate(x if added is None else x + added, activation)
    needs_gradient = _needs_gradient(module, x, added, coarse)
    norm, own_activation = getattr(module, "norm", None), getattr(module, "activation", None)
    is_folded = norm is None or _is_foldable(module, norm, needs_gradient)
    own_relu = own_activation is F.relu and coarse is None
    x = x.contiguous(memory_format=torch.channels_last)
    if added is not None and not overwrite_added:
        added = added.clone(memory_format=torch.channels_last)

    if is_folded and own_relu and added is None and activation != "gelu":
        return _convolve(module, norm, x, "relu", None, needs_gradient)
    is_last = own_activation is None and coarse is None
    if is_folded and is_last and not (needs_gradient and activation == "gelu"):
        return _convolve(module, norm, x, activation, added, needs_gradient)

    x = _convolve(module, norm if is_folded else None, x, "none", None, needs_gradient)
    if not needs_gradient and _is_group_norm(norm, x) and (own_relu or own_activation is None):
        _group_norm_(norm, x, coarse, relu=own_relu)
    else:
        x = x if is_folded else norm(x)
        x = _add_resized(x if own_activation is None else own_activation(x), coarse)
    return activate(x if added is None else x + added, activation)


def _add_resized(x: Tensor, coarse: Tensor | None) -> Tensor:
    if coarse is None:
        return x
    coarse = coarse.contiguous(memory_format=torch.channels_last)
    return F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False).add_(x)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or a part of it has hooks that its forward pass calls."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _needs_gradient(module: nn.Module, *tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (*tensors, *module.parameters())
    )


def _takes(module: nn.Conv2d, x: Tensor) -> bool:
    return (
        onednn.is_usable(x, module.weight, module.bias)
        and x.dtype == module.weight.dtype
        and x.numel() > 0
        and isinstance(module.padding, tuple)
        and module.padding_mode == "zeros"
        and not has_hooks(module)
    )


def _convolve(
    module: nn.Conv2d,
    norm: nn.Module | None,
    x: Tensor,
    activation: Activation,
    added: Tensor | None,
    needs_gradient: bool,
) -> Tensor:
    """Convolve with a norm that is folded into the weight; ``added`` is overwritten."""
    geometry = _geometry(module)
    if needs_gradient:
        scale, bias = (None, module.bias) if norm is None else _scale_and_shift(module, norm)
        return Convolution.apply(
            x, module.weight, bias, scale, added, geometry, activation == "relu"
        )
    if added is None and activation != "gelu" and is_for_winograd(x, module.weight, geometry):
        scale, bias = (
            (None, module.bias) if norm is None else _cached(_scale_and_shift, module, norm)
        )
        return winograd_conv2d(x, module.weight, bias, scale, relu=activation == "relu")
    weight, bias = (module.weight, module.bias) if norm is None else _folded(module, norm, x)
    return onednn.conv2d(x, weight, bias, *geometry, activation, added)


def _geometry(module: nn.Conv2d) -> Geometry:
    return Geometry(module.stride, module.padding, module.dilation, module.groups)


def _is_group_norm(norm: nn.Module | None, x: Tensor) -> bool:
    return (
        isinstance(norm, nn.GroupNorm)
        and norm.affine
        and norm.weight.dtype == x.dtype  # onednn.is_usable: float32 or bfloat16
        and is_compiled("group_norm_", "cpu")
    )


def _group_norm_(norm: nn.GroupNorm, x: Tensor, coarse: Tensor | None, relu: bool) -> None:
    if coarse is not None:
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    group_norm_(x, norm.num_groups, norm.weight, norm.bias, norm.eps, coarse, relu)


def _is_foldable(module: nn.Conv2d, norm: nn.Module, needs_gradient: bool) -> bool:
    """Whether a norm is an affine function of each channel that needs no gradient itself."""
    if isinstance(norm, FrozenBatchNorm2d):
        return not needs_gradient or module.bias is None
    return (
        not needs_gradient
        and isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
        and not norm.training
        and norm.track_running_stats
        and norm.affine
    )


# Folded weights, by convolution, with the tensors' state that they were made of.
_CACHE: WeakKeyDictionary[nn.Conv2d, dict[Callable, tuple[object, Weights]]] = WeakKeyDictionary()


def _cached(
    make: Callable[[nn.Conv2d, nn.Module], Weights],
    module: nn.Conv2d,
    norm: nn.Module,
) -> Weights:
    """Return ``make(module, norm)``, made anew only if a tensor has changed."""
    tensors = [module.weight, module.bias, *norm.parameters(), *norm.buffers()]
    if any(t is not None and t.is_inference() for t in tensors):  # they have no version
        return make(module, norm)
    state = [None if t is None else (t.data_ptr(), t._version) for t in tensors]
    made = _CACHE.setdefault(module, {})
    if make not in made or made[make][0] != state:
        made[make] = (state, make(module, norm))
    return made[make][1]


def _folded(module: nn.Conv2d, norm: nn.Module, x: Tensor) -> Weights:
    """Return weight and bias with a norm, kept only where they are made in no short time beside
    the convolution."""
    has_many_pixels = x.numel() >= MANY_PIXELS * x.shape[1]
    return _fold(module, norm) if has_many_pixels else _cached(_fold, module, norm)


def _fold(module: nn.Conv2d, norm: nn.Module) -> Weights:
    """Return weight and bias of a convolution with its norm."""
    scale, shift = _scale_and_shift(module, norm)
    return module.weight * scale[:, None, None, None], shift


def _scale_and_shift(module: nn.Conv2d, norm: nn.Module) -> Weights:
    """Return the affine function of each channel behind a convolution's products, (D,) each."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias * scale
    return scale.to(module.weight.dtype), shift.to(module.weight.dtype)
