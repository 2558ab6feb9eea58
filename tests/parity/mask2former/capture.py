"""Inputs and outputs of named modules during a forward pass."""

from collections.abc import Iterable

from torch import nn


class Capture:
    """Within the context, keeps the last positional inputs and the output of each named module."""

    def __init__(self, model: nn.Module, names: Iterable[str]):
        self._model = model
        self._names = list(names)
        self.inputs: dict[str, tuple] = {}
        self.outputs: dict = {}

    def __enter__(self) -> "Capture":
        self._hooks = [
            self._model.get_submodule(name).register_forward_hook(self._hook(name))
            for name in self._names
        ]
        return self

    def _hook(self, name: str):
        def keep(module, inputs, output):
            self.inputs[name], self.outputs[name] = inputs, output

        return keep

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
