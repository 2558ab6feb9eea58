"""The report of ``segcore doctor``."""

import argparse
import ctypes
import platform
from collections.abc import Sequence

import torch

import segcore.ops  # noqa: F401  (registers the operators)
from segcore import __version__
from segcore.doctor.gpu import Gpu, advice, driver_version, find_gpus
from segcore.ops import _library
from segcore.ops._library import LIBRARIES, Library


def main(args: argparse.Namespace) -> None:
    """Print the report."""
    print(report())


def report() -> str:
    """Return versions, libraries and operators as text, and what does not fit a GPU."""
    driver, gpus = driver_version(), find_gpus(LIBRARIES["cuda"])
    libraries = [
        (library.path.name, "loaded" if library.loaded else "not loaded", _details(library))
        for library in LIBRARIES.values()
    ]
    operators = [
        (name, device, *_implementation(name, device))
        for name in _library.operators()
        for device in LIBRARIES
    ]
    sections = [
        _versions(driver, gpus),
        _table(("library", "state", "details"), libraries),
        _table(("operator", "device", "implementation", "why"), operators),
        f"Libraries are looked for in {LIBRARIES['cpu'].path.parent}.\n{_library.how_to_build()}.",
        *advice(torch.version.cuda, driver, LIBRARIES["cuda"], gpus),
    ]
    return "\n\n".join(sections)


def _versions(driver: tuple[int, int] | None, gpus: Sequence[Gpu]) -> str:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    names = [
        "{} (sm_{}{}{})".format(gpu.name, *gpu.capability, ", library fails" if gpu.problem else "")
        for gpu in gpus
    ]
    rows = [
        ("segcore", __version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("PyTorch", f"{torch.__version__} ({cuda})"),
        ("CPU", f"{torch.get_num_threads()} threads"),
        ("driver", "for CUDA up to {}.{}".format(*driver) if driver else "none of NVIDIA"),
        ("GPU", ", ".join(names) or "none that PyTorch can use"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _details(library: Library) -> str:
    """How a library was built, or why it is not loaded."""
    if not library.loaded:
        return library.problem
    build_info = ctypes.CDLL(str(library.path)).segcore_build_info
    build_info.restype = ctypes.c_char_p
    return build_info().decode()


def _implementation(name: str, device: str) -> tuple[str, str]:
    problem = _library.why_not_compiled(name, device)
    if problem and _library.has_kernel(name, device):
        return "Triton", problem
    if problem and device == "cuda":
        problem = "; ".join(dict.fromkeys((problem, _library.why_not_triton(name, device))))
    if problem:
        return _library.serving_operator(name, device) or "PyTorch twin", problem
    if device == "cuda" and not torch.cuda.is_available():
        return "compiled", "there is no GPU here, though"
    return "compiled", f"{LIBRARIES[device].path.name} is loaded"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
