"""Names of results, after those of photos and videos."""

import itertools
import os
from collections.abc import Container
from pathlib import Path

from segcore.text import printable

MAX_STEM_BYTES = 240  # file systems allow names of 255; leaves room for a number and a suffix


def free_stem(path: Path, taken: Container[str]) -> str:
    """Return the name of a file without suffix; numbered if ``taken`` has it.

    It is printable UTF-8 and short enough for a file system.
    """
    first = _portable_stem(path)
    numbered = (f"{first}_{number}" for number in itertools.count(2))
    return next(stem for stem in itertools.chain([first], numbered) if stem not in taken)


def utf8(path: str | Path) -> str:
    r"""Return a file name as text; bytes that are not UTF-8 become ``\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _portable_stem(path: Path) -> str:
    stem = os.fsencode(path.stem).decode(errors="replace").replace("\ufffd", "_")
    stem = "".join(c if printable(c) == c else "_" for c in stem)
    return stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
