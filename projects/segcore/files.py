"""Files and folders that appear under their names only when they are complete."""

import errno
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from segcore.errors import OutputError, causes
from segcore.text import printable

_PARTIAL_NAME = re.compile(r"\.(?P<host>.+)-(?P<pid>\d+)-\d+\.partial")
_ABANDONED_AFTER = 24 * 3600  # seconds; for files of other machines, whose processes are not seen
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_counter = itertools.count()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file for writing; it gets its name once it is complete on the disk.

    On any error no file is left behind, and an earlier file of that name stays.
    Encoders that write to the file descriptor themselves, such as Pillow's, ignore a full disk:
    encode into memory first and use :func:`write_bytes`.

    Raises:
        OutputError: the file cannot be written; says why.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            if os.fstat(file.fileno()).st_size < file.tell():
                raise OutputError(f"{path}: cannot be written completely: is the disk full?")
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OutputError:
        raise
    except Exception as error:
        cause = error if isinstance(error, OSError) else no_space_error(error)
        if cause is None:
            raise
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from error
    finally:
        _remove(partial)


def no_space_error(error: BaseException) -> OSError | None:
    """Return the error of a full disk, or of an exceeded quota, that ``error`` comes from, if any.

    ``torch.save`` raises a RuntimeError while it handles the error of the file.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return cause
    return None


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder to fill, which then gets the name ``path``; see :func:`atomic_file`.

    Files in it can be written plainly: all are on the disk before the folder gets its name.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        os.sync()  # once: to wait for each of many small files takes far longer
        os.replace(partial, path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Write a file of ``content`` atomically; see :func:`atomic_file` for the errors."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(content: Any, path: str | Path) -> None:
    """Write ``content`` as JSON atomically; see :func:`atomic_file` for the errors."""
    write_bytes(json.dumps(content).encode(), path)


def relative_to(path: str | Path) -> str:
    """Return the base of a relative path, as an addition to an error message; else ""."""
    if Path(path).is_absolute():
        return ""
    return f" (relative to the working directory {printable(os.getcwd(), 300)})"


def remove_partial_files(folder: str | Path) -> int:
    """Delete partial files and folders of killed processes from ``folder``.

    Call it before this process writes any. Those of other running processes of this machine stay,
    and those of other machines for a day.

    Returns:
        The number of files and folders deleted.
    """
    abandoned = [path for path in Path(folder).rglob(".*.partial") if _is_abandoned(path)]
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else _remove(path)
    return len(abandoned)


def _partial(path: Path) -> Path:
    # Of bounded length, with the process that writes it.
    return path.with_name(f".{socket.gethostname()}-{os.getpid()}-{next(_counter)}.partial")


def _remove(path: Path) -> None:
    # Not there, or in a folder that cannot be written or is none: the error is raised already.
    with suppress(OSError):
        path.unlink()


def _is_abandoned(path: Path) -> bool:
    match = _PARTIAL_NAME.fullmatch(path.name)
    if match is None:
        return False
    if match["host"] == socket.gethostname():
        if match["pid"] == str(os.getpid()):
            return True  # of an earlier process: in a container, the numbers start anew
        return not Path("/proc/self").exists() or not Path("/proc", match["pid"]).exists()
    return time.time() - path.stat().st_mtime > _ABANDONED_AFTER
