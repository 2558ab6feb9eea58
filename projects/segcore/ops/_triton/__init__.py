"""Operators in Triton, for GPUs without the library of CUDA kernels.

Triton compiles them at their first use, for which it needs a C compiler, but not that of CUDA.
Importing this package needs neither Triton nor a GPU.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

OPERATORS = ("ms_deform_attn", "cluster_attention")


def find_problem() -> str:
    """Return the reason why Triton cannot compile operators here, or an empty string."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: gcc, clang or the one that CC names"
    # Debian's default scheme names a folder of /usr/local that has no headers.
    headers = Path(sysconfig.get_path("include", "posix_prefix"))
    if not (headers / "Python.h").is_file():
        return f"Triton needs Python's headers, and {headers} has none"
    return ""


def register(namespace: str) -> None:
    """Make Triton the implementation on CUDA of the operators of a namespace and their
    gradients."""
    for name in OPERATORS:
        for function in (name, f"{name}_backward"):
            torch.library.impl(f"{namespace}::{function}", "CUDA", deferred(name, function))


def deferred(module: str, function: str) -> Callable[..., Any]:
    """Return a function of this package that is imported, with Triton, when it is first called; it
    runs on the device of its first argument."""

    def run(tensor: torch.Tensor, *arguments):
        kernels = import_module(f".{module}", __name__)
        with torch.cuda.device_of(tensor):
            return getattr(kernels, function)(tensor, *arguments)

    return run
