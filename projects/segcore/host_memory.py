"""Memory of the process on the host."""

import ctypes
import os
import sys

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, to allocate it again.

    glibc returns blocks of 32 MiB and more to the system, which clears every page of the next one
    anew: for a training step on a CPU, which frees and allocates gigabytes, a quarter of its time.
    The process does not shrink any more. ``MALLOC_`` variables of the environment take precedence,
    and other C libraries have no such parameters.

    Returns:
        Whether the process keeps it from now on.
    """
    if not sys.platform.startswith("linux") or any(
        name in os.environ for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
    ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    never = -1
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, never))
