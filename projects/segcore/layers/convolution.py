"""Convolutions with a frozen batch norm, a residual and an activation in one operator."""

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.linear import activate
from segcore.layers.onednn import Activation


def convolve(
    module: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    added: Tensor | None = None,
    *,
    overwrite_added: bool = False,
) -> Tensor:
    """Return ``activation(module(x) + added)``, in one operator where that is possible.

    That is without gradients, on CPUs: batch norms with fixed statistics are folded into the
    weight, and the result is channels-last. In training the operators follow each other: together
    they would keep more memory.

    Args:
        module: ``nn.Conv2d`` or Detectron2's ``Conv2d``, with its norm and activation.
        x: (B, C, H, W).
        added: of the size of the result.
        overwrite_added: the memory of ``added`` may be used for the result.
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
    own_activation = getattr(module, "activation", None)
    if own_activation is F.relu and norm is None and added is None and activation != "gelu":
        own_activation, activation = None, "relu"
    x = x.contiguous(memory_format=torch.channels_last)
    geometry = (module.stride, module.padding, module.dilation, module.groups)
    if norm is None and own_activation is None:
        if added is not None and not overwrite_added:
            added = added.clone(memory_format=torch.channels_last)
        return onednn.conv2d(x, weight, bias, *geometry, activation, added)
    x = onednn.conv2d(x, weight, bias, *geometry)
    for function in (norm, own_activation):
        x = x if function is None else function(x)
    return activate(x if added is None else x + added, activation)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module or a part of it has hooks that its forward pass calls."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _takes(module: nn.Conv2d, x: Tensor, norm: nn.Module | None) -> bool:
    return (
        not torch.is_grad_enabled()
        and onednn.is_usable(x, module.weight, module.bias)
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
