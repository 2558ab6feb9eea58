"""Convolutions with a frozen batch norm, a residual and an activation in one operator."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.folded_convolution import FoldedConvolution, Geometry
from segcore.layers.linear import activate
from segcore.layers.onednn import Activation
from segcore.ops import winograd_conv2d, winograd_weight
from segcore.ops._library import is_compiled
from segcore.ops.winograd_conv2d import TILE

Weights = tuple[Tensor, Tensor | None]


def convolve(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    added: Tensor | None = None,
    *,
    overwrite_added: bool = False,
) -> Tensor:
    """Return ``activation(module(x) + added)``, in one operator where that is possible.

    That is on CPUs: batch norms with fixed statistics are folded into the weight, and the result is
    channels-last. In training this holds for Detectron2's frozen batch norm; with other norms, or
    none, the operators follow each other.

    Args:
        module: ``nn.Conv2d`` or Detectron2's ``Conv2d``, with its norm and activation.
        x: (B, C, H, W).
        added: of the size of the result.
        overwrite_added: the memory of ``added`` may be used for the result.
    """
    norm = getattr(module, "norm", None)
    own_activation = getattr(module, "activation", None)
    needs_gradient = _needs_gradient(module, x, added)
    foldable = (
        isinstance(norm, FrozenBatchNorm2d)
        and module.bias is None
        and own_activation is None
        and activation != "gelu"
    )
    if not _takes(module, x) or (needs_gradient and not foldable):
        x = module(x)
        return activate(x if added is None else x + added, activation)
    x = x.contiguous(memory_format=torch.channels_last)
    if needs_gradient:
        geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)
        affine = _scale_and_shift(module, norm)
        overwrite_added = overwrite_added and added is not None
        relu = activation == "relu"
        return FoldedConvolution.apply(
            x, module.weight, *affine, added, overwrite_added, geometry, relu
        )
    frozen = norm is None or _is_frozen(norm)
    rest = [function for function in (None if frozen else norm, own_activation) if function]
    if rest == [F.relu] and added is None and activation != "gelu":
        rest, activation = [], "relu"
    if not rest:
        if added is not None and not overwrite_added:
            added = added.clone(memory_format=torch.channels_last)
        return _convolve(module, norm, x, activation, added)
    x = _convolve(module, norm if frozen else None, x)
    for function in rest:
        x = function(x)
    return activate(x if added is None else x + added, activation)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or a part of it has hooks that its forward pass calls."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _needs_gradient(module: nn.Module, x: Tensor, added: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (
        x.requires_grad
        or (added is not None and added.requires_grad)
        or any(parameter.requires_grad for parameter in module.parameters())
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
    geometry = (module.stride, module.padding, module.dilation, module.groups)
    return onednn.conv2d(x, weight, bias, *geometry, activation, added)


def _is_for_winograd(module: nn.Conv2d, x: Tensor) -> bool:
    """Whether a 3x3 convolution may take the transformed weight, which is four times as large as
    the weight: at most four times as large as its maps."""
    batch, channels, height, width = x.shape
    geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    return (
        x.dtype == torch.float32
        and geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and is_compiled("winograd_conv2d", "cpu")
        and 4 * batch * -(-height // TILE) * -(-width // TILE) >= channels
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
