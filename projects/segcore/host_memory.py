"""Memory of the process on the host."""

import ctypes
import os
import sys
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

_keeps = False


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, to allocate it again.

    glibc returns blocks of 32 MiB and more to the system, which clears every page of the next one
    anew: for a training step on a CPU, which frees and allocates gigabytes, a quarter of its time.
    The process does not shrink any more. ``MALLOC_`` variables of the environment take precedence,
    and other C libraries have no such parameters.

    Returns:
        Whether the process keeps it from now on.
    """
    global _keeps
    library = _glibc()
    if library is None or any(
        name in os.environ for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
    ):
        return False
    never = -1
    _keeps = bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, never))
    return _keeps


def return_freed_memory() -> bool:
    """Return the memory that the process has freed to the system, before large allocations.

    glibc keeps smaller blocks and what lies between those in use, which large ones do not fit into:
    200 MiB after the network of an image. Nothing is returned after :func:`keep_freed_memory`, and
    with other C libraries.

    Returns:
        Whether memory was returned.
    """
    library = None if _keeps else _glibc()
    return library is not None and bool(library.malloc_trim(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
