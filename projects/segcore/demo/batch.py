"""Prediction on many photos; a faulty one is reported and skipped."""

import errno
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from segcore.demo.photos import find_photos
from segcore.errors import DataError
from segcore.files import no_space_error
from segcore.program import explain, is_out_of_memory
from segcore.text import printable

MAX_REASON_LENGTH = 400  # characters


def collect_photos(paths: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the photos that files and folders name, each once, and the folders without any.

    Raises:
        DataError: there is no photo at all.
    """
    photos_by_path = {path: find_photos([path]) for path in paths}
    empty = [path for path, photos in photos_by_path.items() if not photos]
    photos = list(itertools.chain(*photos_by_path.values()))
    if not photos:
        raise DataError(f"no photos in {', '.join(map(printable, empty))}")
    unique: dict[str, Path] = {}
    for photo in photos:
        unique.setdefault(os.path.abspath(photo), photo)
    return list(unique.values()), empty


def predict_photos(
    photos: Iterable[Path], predict: Callable[[Path], str], *, debug: bool = False
) -> int:
    """Call ``predict`` on each photo and print the result; an error is a line on stderr.

    Args:
        debug: print the traceback of errors.

    Returns:
        the number of photos that failed.

    Raises:
        OutputError: the disk is full, so that the others would fail too.
    """
    failed = 0
    for path in tqdm(photos, desc="photos", unit="photo", disable=None):  # None: on terminals only
        try:
            text = predict(path)
        except Exception as error:
            full = no_space_error(error)
            if full is not None and full.errno != errno.EFBIG:  # which is of that file alone
                raise
            failed += 1
            if debug:
                tqdm.write(traceback.format_exc(), file=sys.stderr)
            tqdm.write(f"failed: {reason(path, error)}", file=sys.stderr)
        else:
            tqdm.write(f"\n{printable(path)}\n{text}")
    return failed


@contextmanager
def exit_on_termination() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that results are written before the end."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def reason(path: Path, error: Exception) -> str:
    """Return one line that names a photo or video and the error."""
    name, known = printable(path), explain(error)
    if known is None:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    elif is_out_of_memory(error):
        text = str(known).splitlines()[0]
    else:
        text = " ".join(str(known).split())
    return printable(text if text.startswith(name) else f"{name}: {text}", MAX_REASON_LENGTH)
