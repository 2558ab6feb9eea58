"""Names of official checkpoints, taken as ours wherever a state dict is loaded."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

# Names of another layout -> our names; None: the entry has no use here.
Renaming = Callable[[Iterable[str]], dict[str, str | None]]


def rename_on_load(model: nn.Module, renaming: Renaming) -> None:
    """Let ``model.load_state_dict`` take the names that ``renaming`` knows, too.

    Args:
        renaming: of the names given, those that differ.
    """

    def rename(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        for old, new in renaming(names).items():
            value = state_dict.pop(prefix + old)
            if new is not None:
                state_dict[prefix + new] = value

    model.register_load_state_dict_pre_hook(rename)
