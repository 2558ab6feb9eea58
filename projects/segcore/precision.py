"""Networks in half precision: weights that are cast once, not once an operator."""

import copy
from collections.abc import Iterator

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from segcore.errors import ConfigError

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Return a model for evaluation in a precision: for "float32" itself, else a cast copy.

    Activations take the type of the weights. What needs float32 keeps it: batch norms and the
    statistics of other norms, positions and sampling locations, sums of the operators, and all
    that is made of the masks that the network predicts. A module may name further parts, which are
    submodules, parameters or buffers, as ``float32_parts``.

    Args:
        precision: "float32", "bfloat16", or on a GPU "float16" (``TEST.PRECISION``).

    Raises:
        ConfigError: there is no such precision on the device of the model.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"TEST.PRECISION: expected one of {', '.join(PRECISIONS)}, got {precision!r}"
        )
    if precision == "float32":
        return model
    check_precision(precision, next(model.parameters()).device.type)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    model = copy.deepcopy(model)
    float32_parts = tuple(f"{name}." for name in _float32_parts(model))
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                if not f"{prefix}.{name}.".lstrip(".").startswith(float32_parts):
                    tensor.data = tensor.data.to(PRECISIONS[precision])
    return model


def check_precision(precision: str, device_type: str) -> None:
    """Raise a ConfigError if a kind of device has no fast way for a precision."""
    if precision == "float16" and device_type == "cpu":
        raise ConfigError(
            "TEST.PRECISION: expected float32 or bfloat16 on a CPU, got float16, which is for GPUs"
        )


def _float32_parts(model: nn.Module) -> Iterator[str]:
    """Yield the dotted names of what stays in float32."""
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm | FrozenBatchNorm2d):
            yield prefix
        for name in getattr(module, "float32_parts", ()):
            yield f"{prefix}.{name}".lstrip(".")
