"""Compiled libraries: loading, and the implementation that serves an operator.

An operator is served by its compiled kernel where the library of the device is loaded; otherwise on
CUDA by its Triton version, where it has one and Triton can work; everywhere else by its PyTorch
twin. Importing this module never fails.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _triton

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


def _load_cuda(schemas: Library, version: str | None = torch.version.cuda) -> Library:
    """Load the library for the major version of CUDA that PyTorch is built for."""
    path = _FOLDER / f"_C_cuda{(version or '').partition('.')[0]}.abi3.so"
    if version is None:
        return Library(path, "this PyTorch is built without CUDA")
    if not schemas.loaded:
        return Library(path, f"the schemas are missing: {schemas.problem}")
    others = ", ".join(sorted(file.name for file in _FOLDER.glob("_C_cuda[0-9]*.abi3.so")))
    if others and not path.is_file():
        return Library(path, f"{others} is not for CUDA {version}, which PyTorch is built for")
    return _load(path)


def _load_all() -> dict[str, Library]:
    cpu = _load(_FOLDER / "_C.abi3.so")
    return {"cpu": cpu, "cuda": _load_cuda(cpu)}


def _find_triton_problem() -> str:
    if LIBRARIES["cuda"].loaded:
        return f"{LIBRARIES['cuda'].path.name} is loaded"
    if torch.version.cuda is None or not LIBRARIES["cpu"].loaded:
        return LIBRARIES["cuda"].problem
    return _triton.find_problem()


def how_to_build() -> str:
    """Return how the user gets the libraries: with the sources by compiling, else by a wheel."""
    if (_FOLDER.parents[1] / "csrc").is_dir():
        return "`python setup.py build_ext --inplace` builds them (FORCE_CUDA=1: without a GPU too)"
    return (
        "They come with the wheel: in a clone, `make wheel` makes one with those for CPUs, "
        "`make wheel CUDA=1` one with those for CUDA too"
    )


def _warn_of_slow_operators() -> None:
    problems = {}
    if not LIBRARIES["cpu"].loaded:
        problems["cpu"] = LIBRARIES["cpu"].problem
    elif torch.version.cuda and not LIBRARIES["cuda"].loaded and torch.cuda.device_count():
        problems["cuda"] = LIBRARIES["cuda"].problem
    for device, problem in problems.items():
        by_triton = " and ".join(_triton.OPERATORS)
        exception = f" but {by_triton}" if device == "cuda" and not TRITON_PROBLEM else ""
        warnings.warn(
            f"segcore runs its operators{exception} in plain PyTorch on {device}, which is slower:"
            f" {problem}. {how_to_build()}; `python -m segcore.doctor` says more.",
            RuntimeWarning,
            stacklevel=2,
        )


LIBRARIES: dict[str, Library] = _load_all()
"""Library by type of device; the one of "cpu" holds the schemas as well."""

TRITON_PROBLEM: str = _find_triton_problem()
"""Reason why Triton serves no operator on CUDA, or an empty string."""

_operators: dict[str, str] = {}  # operator -> reason why its schema is missing, or ""
_fallbacks: dict[str, str] = {}  # operator -> another one, which is used where it has no kernel
_cpu_only: set[str] = set()  # operators without a CUDA kernel

_warn_of_slow_operators()
if not TRITON_PROBLEM:
    _triton.register(NAMESPACE)


def add_operator(name: str, fallback: str | None = None, *, cpu_only: bool = False) -> bool:
    """Look for the schema of an operator of ``csrc/ops.cpp``; return whether it is there.

    ``fallback`` is an operator that is used where this one has no kernel, ``cpu_only`` that there
    is none for CUDA.
    """
    if cpu_only:
        _cpu_only.add(name)
    if fallback is not None:
        _fallbacks[name] = fallback
    if not LIBRARIES["cpu"].loaded:
        _operators[name] = LIBRARIES["cpu"].problem
    elif not hasattr(getattr(torch.ops, NAMESPACE), name):
        _operators[name] = f"{LIBRARIES['cpu'].path.name} is older than the sources: build it again"
    else:
        _operators[name] = ""
    return not _operators[name]


def is_registered(name: str) -> bool:
    """Return whether the schema of an operator is there."""
    return not _operators[name]


def operators() -> tuple[str, ...]:
    """Return the names of all operators."""
    return tuple(_operators)


def why_not_compiled(name: str, device_type: str) -> str:
    """Return the reason why no compiled kernel of an operator serves a type of device, or an empty
    string."""
    if _operators[name]:
        return _operators[name]
    if device_type not in LIBRARIES:
        return f"there are no kernels for {device_type}"
    if device_type != "cpu" and name in _cpu_only:
        return "it is for CPUs only"
    return LIBRARIES[device_type].problem


def is_compiled(name: str, device_type: str) -> bool:
    """Return whether the compiled kernel of an operator serves a type of device."""
    return not why_not_compiled(name, device_type)


def why_not_triton(name: str, device_type: str) -> str:
    """Return the reason why Triton does not serve an operator on a type of device, or an empty
    string."""
    if device_type != "cuda" or name.removesuffix("_backward") not in _triton.OPERATORS:
        return "it has no Triton version"
    return _operators[name] or LIBRARIES["cpu"].problem or TRITON_PROBLEM


def has_kernel(name: str, device_type: str) -> bool:
    """Return whether a kernel of an operator, compiled or in Triton, serves a type of device."""
    return is_compiled(name, device_type) or not why_not_triton(name, device_type)


def serving_operator(name: str, device_type: str) -> str:
    """Return the operator whose kernel serves an operator on a type of device: its own or that of
    its fallback; an empty string where the PyTorch twin serves."""
    candidates = filter(None, (name, _fallbacks.get(name)))
    return next((other for other in candidates if has_kernel(other, device_type)), "")
