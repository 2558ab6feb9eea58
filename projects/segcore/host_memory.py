"""Memory of the process on the host."""

import ctypes
import os
import sys
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4

LARGE_BYTES = 256 << 20
"""Size from which a tensor is one of the results, such as scores, not of the network."""

_keeps_all = False


def keep_freed_memory(below: int | None = None) -> bool:
    """Let the process keep the memory that it frees, to allocate it again.

    glibc returns blocks of 32 MiB and more to the system, which clears every page of the next one
    anew: for a training step on a CPU, which frees and allocates gigabytes, a quarter of its time;
    for the network of an image, a twelfth. The process does not shrink any more. ``MALLOC_``
    variables of the environment take precedence, and other C libraries have no such parameters.

    Args:
        below: size in bytes from which blocks are still returned, which needs glibc 2.35; None:
            all are kept.

    Returns:
        Whether the process keeps it from now on.
    """
    global _keeps_all
    library = _glibc()
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    if library is None or any(name in os.environ for name in names):
        return False
    never = -1
    parameter = (M_MMAP_MAX, 0) if below is None else (M_MMAP_THRESHOLD, below)
    kept = bool(library.mallopt(*parameter) and library.mallopt(M_TRIM_THRESHOLD, never))
    _keeps_all |= kept and below is None
    return kept


def return_freed_memory() -> bool:
    """Return the memory that the process has freed to the system, before large allocations.

    glibc keeps smaller blocks and what lies between those in use, which large ones do not fit into:
    200 MiB after the network of an image. Nothing is returned once :func:`keep_freed_memory` keeps
    all, and with other C libraries.

    Returns:
        Whether memory was returned.
    """
    library = None if _keeps_all else _glibc()
    return library is not None and bool(library.malloc_trim(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
