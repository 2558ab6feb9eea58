"""The compiled libraries: loading them, and which implementation serves which operator.

An operator is served by its compiled kernel where the library of the device is loaded, and by its
PyTorch twin everywhere else. Importing this module never fails.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

NAMESPACE = "segcore"
_FOLDER = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Library:
    """A compiled library: where it is, and why it is not loaded (empty: it is loaded)."""

    path: Path
    problem: str

    @property
    def loaded(self) -> bool:
        return not self.problem


def _load(path: Path) -> Library:
    if not path.is_file():
        return Library(path, f"{path.name} has not been built")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return Library(path, f"{path.name} cannot be loaded: {error}")
    return Library(path, "")


def _load_all() -> dict[str, Library]:
    cpu = _load(_FOLDER / "_C.abi3.so")
    cuda_path = _FOLDER / "_C_cuda.abi3.so"
    if torch.version.cuda is None:
        cuda = Library(cuda_path, "this PyTorch is built without CUDA")
    elif not cpu.loaded:
        cuda = Library(cuda_path, f"the schemas are missing: {cpu.problem}")
    else:
        cuda = _load(cuda_path)
    return {"cpu": cpu, "cuda": cuda}


def _warn_of_slow_operators() -> None:
    problems = {}
    if not LIBRARIES["cpu"].loaded:
        problems["cpu"] = LIBRARIES["cpu"].problem
    elif torch.version.cuda and not LIBRARIES["cuda"].loaded and torch.cuda.device_count():
        problems["cuda"] = LIBRARIES["cuda"].problem
    for device, problem in problems.items():
        warnings.warn(
            f"segcore runs its operators in plain PyTorch on {device}, which is slower: {problem}."
            " `python setup.py build_ext --inplace` builds them, `python -m segcore.doctor`"
            " says more.",
            RuntimeWarning,
            stacklevel=2,
        )


LIBRARIES: dict[str, Library] = _load_all()
"""The library of each type of device; the one of "cpu" holds the schemas as well."""

_operators: dict[str, str] = {}  # operator -> why its schema is missing ("": it is there)

_warn_of_slow_operators()


def register_operator(
    name: str,
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Add what Python has to say about a compiled operator: fake kernel and autograd.

    Args:
        name: of the operator in ``csrc/ops.cpp``
        fake: shapes and types of the results, for ``torch.compile`` and meta tensors
        setup_context, backward: as for ``torch.library.register_autograd``
    """
    if not LIBRARIES["cpu"].loaded:
        _operators[name] = LIBRARIES["cpu"].problem
        return
    if not hasattr(getattr(torch.ops, NAMESPACE), name):
        _operators[name] = f"{LIBRARIES['cpu'].path.name} is older than the sources: build it again"
        return
    _operators[name] = ""
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context)


def refuse_second_derivative(name: str) -> Callable[..., Any]:
    """The backward of the operator's backward: an error that names the way out."""

    def refuse(ctx, *grad_outputs):
        raise NotImplementedError(
            f"{name} can be differentiated once; for second derivatives use"
            f" segcore.ops.{name}_reference"
        )

    return refuse


def operators() -> tuple[str, ...]:
    """Names of all operators that have been registered."""
    return tuple(_operators)


def why_not_compiled(name: str, device_type: str) -> str:
    """Why the twin of an operator serves a type of device; empty where the compiled kernel does."""
    if _operators[name]:
        return _operators[name]
    if device_type not in LIBRARIES:
        return f"there are no kernels for {device_type}"
    return LIBRARIES[device_type].problem


def is_compiled(name: str, device_type: str) -> bool:
    """Whether the compiled kernel of an operator serves a type of device."""
    return not why_not_compiled(name, device_type)
