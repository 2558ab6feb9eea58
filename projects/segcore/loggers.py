"""Loggers of libraries."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_warnings_of(name: str) -> Iterator[None]:
    """Silence a library's logger except for errors."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
