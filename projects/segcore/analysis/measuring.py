"""Time and memory of a network on the device at hand."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from segcore.analysis.modules import running_modules


def measure_seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median of the wall-clock seconds of ``run``, after one run to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = _now(device)
        run()
        seconds.append(_now(device) - start)
    return median(seconds)


def measure_modules(model: nn.Module, run: Callable[[], Any], device: torch.device) -> Counter[str]:
    """Return the wall-clock seconds of each module, without those of the modules inside.

    What runs between modules counts for the module that calls them. The GPU is waited for at each
    border, and layers are not fused over it, so that only shares of the time mean something.
    """
    seconds: Counter[str] = Counter()
    stack = [""]
    last = 0.0

    def enter(name: str) -> None:
        switch()
        stack.append(name)

    def leave(name: str) -> None:
        switch()
        stack.pop()

    def switch() -> None:
        nonlocal last
        now = _now(device)
        seconds[stack[-1]] += now - last
        last = now

    with running_modules(model, enter, leave):
        last = _now(device)
        run()
        switch()
    return seconds


def measure_mebibytes(run: Callable[[], Any], device: torch.device) -> float:
    """Return the peak of the memory of ``run`` beyond what there is before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = reset_peak_resident_mebibytes()
    run()
    # The system counts pages in batches, by thread: what takes none may seem to give some back.
    return max(0.0, peak_resident_mebibytes() - before)


def reset_peak_resident_mebibytes() -> float:
    """Set the peak of the process to its present memory, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident_mebibytes()


def peak_resident_mebibytes() -> float:
    """Return the peak of the memory of this process, not of its parents as ``resource`` does."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) / 2**10


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
