"""Compiled libraries: loading, and the implementation that serves an operator.

An operator is served by its compiled kernel where the library of the device is loaded, and by its
PyTorch twin everywhere else. Importing this module never fails.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

NAMESPACE = "segcore"
_FOLDER = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Library:
    """Path of a compiled library, and the reason why it is not loaded (empty: it is loaded)."""

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
"""Library by type of device; the one of "cpu" holds the schemas as well."""

_operators: dict[str, str] = {}  # operator -> reason why its schema is missing, or ""

_warn_of_slow_operators()


def add_operator(name: str) -> bool:
    """Look for the schema of an operator of ``csrc/ops.cpp``; return whether it is there."""
    if not LIBRARIES["cpu"].loaded:
        _operators[name] = LIBRARIES["cpu"].problem
    elif not hasattr(getattr(torch.ops, NAMESPACE), name):
        _operators[name] = f"{LIBRARIES['cpu'].path.name} is older than the sources: build it again"
    else:
        _operators[name] = ""
    return not _operators[name]


def operators() -> tuple[str, ...]:
    """Return the names of all operators."""
    return tuple(_operators)


def why_not_compiled(name: str, device_type: str) -> str:
    """Return the reason why the twin of an operator serves a type of device, or an empty string."""
    if _operators[name]:
        return _operators[name]
    if device_type not in LIBRARIES:
        return f"there are no kernels for {device_type}"
    return LIBRARIES[device_type].problem


def is_compiled(name: str, device_type: str) -> bool:
    """Return whether the compiled kernel of an operator serves a type of device."""
    return not why_not_compiled(name, device_type)
