"""Fit of PyTorch, driver, CUDA library and GPUs to each other, for :mod:`segcore.doctor`."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from segcore.ops._library import Library

OLDEST_DRIVER = {12: 525, 13: 580}
"""Major version of CUDA -> oldest series of drivers that serve it."""
PREBUILT_FOR = 13
"""Major version of CUDA that `make bundle` packs a library for."""


class Gpu(NamedTuple):
    """A GPU that PyTorch sees; ``problem``: why the CUDA library does not run on it, or ""."""

    name: str
    capability: tuple[int, int]
    problem: str


def driver_version() -> tuple[int, int] | None:
    """Return the newest version of CUDA that the NVIDIA driver serves, or None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def find_gpus(library: Library) -> list[Gpu]:
    """Return the GPUs that PyTorch sees, with the CUDA library tried on each, if it is loaded."""
    if not torch.cuda.is_available():
        return []
    return [
        Gpu(
            torch.cuda.get_device_name(i),
            torch.cuda.get_device_capability(i),
            _try(torch.device("cuda", i)) if library.loaded else "",
        )
        for i in range(torch.cuda.device_count())
    ]


def _try(device: torch.device) -> str:
    """Run the smallest operator on a GPU; return the error, or ""."""
    features = torch.ones(1, 1, 4, device=device)
    indices = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    try:
        torch.ops.segcore.point_gather(features, indices, features[..., :1])
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""


def advice(
    cuda: str | None, driver: tuple[int, int] | None, library: Library, gpus: Sequence[Gpu]
) -> list[str]:
    """Say what does not fit, and the way out of each.

    Args:
        cuda: version of CUDA that PyTorch is built for, or None
        driver: result of :func:`driver_version`
        library: the one of CUDA kernels
        gpus: result of :func:`find_gpus`
    """
    if driver is None:
        return []
    serves = f"The driver serves CUDA up to {driver[0]}.{driver[1]}"
    if cuda is None:
        return [f"{serves}, but this PyTorch is built without CUDA: install one built for CUDA."]
    major = int(cuda.partition(".")[0])
    if driver[0] < major:
        series = OLDEST_DRIVER.get(major)
        newer = f"driver {series} or newer" if series else "a newer driver"
        return [
            f"{serves}, but this PyTorch is built for CUDA {cuda}: install {newer}, or a PyTorch"
            f" built for CUDA {driver[0]}."
        ]
    if not gpus:
        return [f"{serves}, but PyTorch sees no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES."]
    if not library.loaded:
        way_out = f"`make cuda` builds {library.path.name} with the compiler of CUDA {major}"
        if major < PREBUILT_FOR:
            way_out += f"; or install a PyTorch built for CUDA {PREBUILT_FOR} and, if it is older,"
            way_out += f" driver {OLDEST_DRIVER[PREBUILT_FOR]}"
        return [f"No CUDA kernels: {library.problem}. {way_out}."]
    return [
        f"{gpu.name} cannot run {library.path.name}: {gpu.problem}. {_way_out(gpu)}"
        for gpu in gpus
        if gpu.problem
    ]


def _way_out(gpu: Gpu) -> str:
    if "no kernel image" in gpu.problem:
        major, minor = gpu.capability
        return (
            "It was compiled for other GPUs, see above; for this one compile it with"
            f" TORCH_CUDA_ARCH_LIST={major}.{minor} make cuda."
        )
    if "driver version is insufficient" in gpu.problem:
        return f"Install driver {OLDEST_DRIVER[PREBUILT_FOR]} or newer."
    return "CUDA_LAUNCH_BLOCKING=1 and compute-sanitizer say more."
