"""The modules of a model that run, and tables by part of a model."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


@contextmanager
def running_modules(
    model: nn.Module, enter: Callable[[str], Any], leave: Callable[[str], Any]
) -> Iterator[None]:
    """Call ``enter`` and ``leave`` with the full name of each module that runs."""

    def before(name: str, module: nn.Module, args: tuple) -> None:
        enter(name)

    def after(name: str, module: nn.Module, args: tuple, output: Any) -> None:
        leave(name)

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(before, name)))
        handles.append(module.register_forward_hook(partial(after, name), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sum_by_part(values: Iterable[tuple[str, float]], depth: int) -> Counter[str]:
    """Sum values of modules into each part above them, "" for the whole model.

    Args:
        values: pairs of the full name of a module and what is its own.
        depth: number of names that the name of a part has at most.
    """
    sums: Counter[str] = Counter()
    for module, value in values:
        names = module.split(".")[:depth] if module else []
        for length in range(len(names) + 1):
            sums[".".join(names[:length])] += value
    return sums
