"""Files of a folder, and work on many of them in threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from segcore.data.panoptic_format import num_workers
from segcore.errors import DataError
from segcore.text import printable

Item = TypeVar("Item")
Result = TypeVar("Result")


HIDDEN_PREFIX = "._"  # of the files that macOS puts beside others into archives


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern, in upper or lower case, in the order of their names.

    Raises:
        DataError: there are none.
    """
    any_case = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in pattern)
    paths = sorted(path for path in folder.glob(any_case) if path.is_file())
    if paths := [path for path in paths if not path.name.startswith(HIDDEN_PREFIX)]:
        return paths
    raise DataError(f"{printable(folder)}: expected files {pattern}, got none")


def for_each(work: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    """Call ``work`` on each item, in threads with a progress bar; results are in order."""
    with ThreadPoolExecutor(num_workers([])) as pool:
        return list(tqdm(pool.map(work, items), title, len(items), delay=1))
