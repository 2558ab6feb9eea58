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
    has_winograd,
    number_of_tiles,
)
from segcore.layers.linear import activate
from segcore.layers.onednn import Activation
from segcore.ops import group_norm_, winograd_conv2d, winograd_weight
from segcore.ops._library import is_compiled

Weights = tuple[Tensor, Tensor | None]


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
    if _takes(module, x):
        run = _train if _needs_gradient(module, x, added, coarse) else _infer
        if added is not None and not overwrite_added:
            added = added.clone(memory_format=torch.channels_last)
        return run(
            module, x.contiguous(memory_format=torch.channels_last), activation, added, coarse
        )
    x = _add_resized(module(x), coarse)
    return activate(x if added is None else x + added, activation)


def _train(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation,
    added: Tensor | None,
    coarse: Tensor | None,
) -> Tensor:
    """:func:`convolve` with gradients; the memory of ``added`` may be used."""
    norm, own_activation = getattr(module, "norm", None), getattr(module, "activation", None)
    # A bias before the norm would need a gradient through it.
    is_folded = norm is None or (isinstance(norm, FrozenBatchNorm2d) and module.bias is None)
    rest = [function for function in (None if is_folded else norm, own_activation) if function]
    if rest == [F.relu] and added is None and coarse is None and activation != "gelu":
        rest, activation = [], "relu"
    bias, scale = module.bias, None
    if norm is not None and is_folded:
        scale, bias = _scale_and_shift(module, norm)
    in_one = not rest and coarse is None and activation != "gelu"
    x = Convolution.apply(
        x,
        module.weight,
        bias,
        scale,
        added if in_one else None,
        _geometry(module),
        in_one and activation == "relu",
    )
    if in_one:
        return x
    for function in rest:
        x = function(x)
    x = _add_resized(x, coarse)
    return activate(x if added is None else x + added, activation)


def _infer(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation,
    added: Tensor | None,
    coarse: Tensor | None,
) -> Tensor:
    """:func:`convolve` without gradients; the memory of ``added`` is used."""
    norm, own_activation = getattr(module, "norm", None), getattr(module, "activation", None)
    is_folded = norm is None or _is_frozen(norm)
    own_relu = own_activation is F.relu and coarse is None
    if is_folded and own_relu and added is None and activation != "gelu":
        return _convolve(module, norm, x, "relu")
    if is_folded and own_activation is None and coarse is None:
        return _convolve(module, norm, x, activation, added)
    x = _convolve(module, norm if is_folded else None, x)
    if _is_group_norm(norm, x) and (own_relu or own_activation is None):
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
    activation: Activation = "none",
    added: Tensor | None = None,
) -> Tensor:
    """Convolve with a norm that is folded into the weight; ``added`` is overwritten."""
    if added is None and activation != "gelu" and _is_for_winograd(module, x):
        weight, bias = _cached(_winograd_weights, module, norm)
        return winograd_conv2d(x, weight, bias, relu=activation == "relu")
    weight, bias = (module.weight, module.bias) if norm is None else _cached(_fold, module, norm)
    return onednn.conv2d(x, weight, bias, *_geometry(module), activation, added)


def _geometry(module: nn.Conv2d) -> Geometry:
    return Geometry(module.stride, module.padding, module.dilation, module.groups)


def _is_for_winograd(module: nn.Conv2d, x: Tensor) -> bool:
    """Whether a 3x3 convolution may take the transformed weight, which is four times as large as
    the weight: at most four times as large as its maps."""
    return (
        has_winograd(x, module.weight, _geometry(module)) and 4 * number_of_tiles(x) >= x.shape[1]
    )


def _is_group_norm(norm: nn.Module | None, x: Tensor) -> bool:
    return (
        isinstance(norm, nn.GroupNorm)
        and norm.affine
        and norm.weight.dtype == x.dtype == torch.float32
        and is_compiled("group_norm_", "cpu")
    )


def _group_norm_(norm: nn.GroupNorm, x: Tensor, coarse: Tensor | None, relu: bool) -> None:
    if coarse is not None:
        coarse = coarse.contiguous(memory_format=torch.channels_last)
    group_norm_(x, norm.num_groups, norm.weight, norm.bias, norm.eps, coarse, relu)


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


# Folded and transformed weights, by convolution, with the tensors' state that they were made of.
_CACHE: WeakKeyDictionary[nn.Conv2d, dict[Callable, tuple[object, Weights]]] = WeakKeyDictionary()


def _cached(
    make: Callable[[nn.Conv2d, nn.Module | None], Weights],
    module: nn.Conv2d,
    norm: nn.Module | None,
) -> Weights:
    """Return ``make(module, norm)``, made anew only if a tensor has changed."""
    tensors = [module.weight, module.bias]
    if norm is not None:
        tensors += [*norm.parameters(), *norm.buffers()]
    if any(t is not None and t.is_inference() for t in tensors):  # they have no version
        return make(module, norm)
    state = [None if t is None else (t.data_ptr(), t._version) for t in tensors]
    made = _CACHE.setdefault(module, {})
    if make not in made or made[make][0] != state:
        made[make] = (state, make(module, norm))
    return made[make][1]


def _fold(module: nn.Conv2d, norm: nn.Module | None) -> Weights:
    """Return weight and bias of a convolution with its norm."""
    if norm is None:
        return module.weight, module.bias
    scale, shift = _scale_and_shift(module, norm)
    return module.weight * scale[:, None, None, None], shift


def _scale_and_shift(module: nn.Conv2d, norm: nn.Module) -> Weights:
    """Return the affine function of each channel behind a convolution's products, (D,) each."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias * scale
    return scale.to(module.weight.dtype), shift.to(module.weight.dtype)


def _winograd_weights(module: nn.Conv2d, norm: nn.Module | None) -> Weights:
    weight, bias = _fold(module, norm)
    return winograd_weight(weight), bias
