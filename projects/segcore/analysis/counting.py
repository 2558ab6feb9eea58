"""Multiply-adds and activations of a network by module and operator, without computing anything."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from segcore.analysis.formulas import ACTIVATIONS, FORMULAS
from segcore.analysis.modules import running_modules


class Counts(NamedTuple):
    """Counts of one run, by (module, operator), such as ("backbone.stem.conv1", "convolution").

    Attributes:
        multiply_adds: see :mod:`segcore.analysis.formulas`.
        activations: elements of the results of convolutions and matrix products.
    """

    multiply_adds: Counter[tuple[str, str]]
    activations: Counter[tuple[str, str]]


def count(model: nn.Module, run: Callable[[Tensor], Any], size: tuple[int, int]) -> Counts:
    """Count the operations of ``run`` on one image.

    Args:
        model: on the CPU; values of parameters count for nothing.
        run: such as ``model.network``, called with normalized images (1, 3, H, W).
        size: (H, W).
    """
    counter = _Counter(model)
    # Fused operators of oneDNN hide what they are made of.
    with (
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False, allow_tf32=None),
        FakeTensorMode(allow_non_fake_inputs=True),
        running_modules(model, counter.modules.append, lambda name: counter.modules.pop()),
        counter,
    ):
        run(torch.empty(1, 3, *size))
    return counter.counts


class _Counter(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = [""]
        self.counts = Counts(Counter(), Counter())

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        packet = operator.overloadpacket
        if packet in FORMULAS:
            name, formula = FORMULAS[packet]
            key = self.modules[-1], name
            self.counts.multiply_adds[key] += formula(args, result)
            if packet in ACTIVATIONS:
                self.counts.activations[key] += result.numel()
        return result
