"""Names of official checkpoints, taken as ours wherever a state dict is loaded."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

# Names of a state dict -> those that differ from ours, with our names; None: it has no use here.
Renaming = Callable[[Iterable[str]], dict[str, str | None]]


def rename_on_load(model: nn.Module, renaming: Renaming) -> None:
    """Let ``model.load_state_dict`` take the names that ``renaming`` knows, too."""
    model.register_load_state_dict_pre_hook(partial(_rename, renaming))


def _rename(
    renaming: Renaming, module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    for old, new in renaming(names).items():
        value = state_dict.pop(prefix + old)
        if new is not None:
            state_dict[prefix + new] = value
