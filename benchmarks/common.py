"""Measurement of time and memory."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from segcore.analysis.measuring import peak_resident_mebibytes, reset_peak_resident_mebibytes


def median_seconds(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median time of each function; see :func:`seconds_in_turns`."""
    seconds = seconds_in_turns(functions, repeats, device, clock)
    return {name: statistics.median(values) for name, values in seconds.items()}


def least_cpu_seconds(
    functions: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Return the least CPU time of each function; see :func:`seconds_in_turns`.

    On a loaded machine it is a better measure than the wall time, with one thread: threads that
    wait spin, and count.
    """
    seconds = seconds_in_turns(functions, repeats, "cpu", time.process_time)
    return {name: min(values) for name, values in seconds.items()}


def seconds_in_turns(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    device: str,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Return the times of each function.

    They run in turns, so that other load of the machine affects all of them; a turn before the
    first is a warm-up.
    """
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            _synchronize(device)
            start = clock()
            function()
            _synchronize(device)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool = True) -> Iterator[None]:
    """Set ``torch.use_deterministic_algorithms`` for a while, without the filling of new tensors,
    which serves to find errors."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(enabled)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def peak_mebibytes(make: Callable[..., Callable[[], object]], *arguments, device: str) -> float:
    """Measure the peak memory of ``make(*arguments)()`` beyond ``make``'s, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (make, arguments, device))


def _peak_here(make: Callable[..., Callable[[], object]], arguments: tuple, device: str) -> float:
    function = make(*arguments)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = reset_peak_resident_mebibytes()
    function()
    return peak_resident_mebibytes() - before


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
