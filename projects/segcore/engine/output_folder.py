"""The output folder of a run, locked by it; a used one needs ``--resume``."""

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from segcore.errors import ConfigError, OutputError
from segcore.files import remove_partial_files
from segcore.text import printable

LOCK_NAME = ".lock"
# Files of a training that another one would mix with or overwrite.
TRACES_OF_TRAINING = ("last_checkpoint", "metrics.json", "model_*.pth")
# Errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}

logger = logging.getLogger(__name__)
# A record lock does not keep out the process that holds it.
_held: set[Path] = set()


@contextmanager
def output_folder(path: str, *, trains_anew: bool) -> Iterator[Path]:
    """Create ``OUTPUT_DIR`` and lock it for this process; remove partial files of killed runs.

    The lock is a POSIX record lock: the kernel releases it when the process ends, in any way,
    and child processes do not inherit it. On NFS it holds among all machines that mount the folder
    with locks; on a file system without locks a warning says so.

    Args:
        trains_anew: refuse a folder with the files of a training.

    Raises:
        ConfigError: the path is invalid, or the folder has a training in it and ``trains_anew``.
        OutputError: the folder cannot be created or written, or another run holds it.
    """
    folder = _create(path)
    with _lock(folder):
        if trains_anew:
            _refuse_used(folder)
        removed = remove_partial_files(folder)
        if removed:
            logger.info("%d partial files of killed runs removed from %s", removed, folder)
        yield folder


def _create(path: str) -> Path:
    if not path or "\0" in path:
        raise ConfigError(f"OUTPUT_DIR is {printable(path)!r}, expected the path of a folder")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"OUTPUT_DIR {printable(path)} is a file, expected a folder") from error
    except OSError as error:
        raise OutputError(
            f"OUTPUT_DIR {printable(path)} cannot be created: {error.strerror}"
        ) from error
    return folder.resolve()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    if folder in _held:
        raise OutputError(f"OUTPUT_DIR {folder} is in use by this process already")
    try:
        file = open(folder / LOCK_NAME, "a+")  # noqa: SIM115, closed below
    except OSError as error:
        raise OutputError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}") from error
    with file:
        _acquire(file, folder)
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)


def _acquire(file: IO[str], folder: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning("%s has no file locks: make sure that no other run uses it", folder)
            return
        raise OutputError(
            f"OUTPUT_DIR {folder} is in use by another run: {_holder(file)}\n"
            "wait for it or end it, or choose another folder: OUTPUT_DIR <folder>"
        ) from error
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(sys.argv),
    }
    try:
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
    except OSError as error:
        raise OutputError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}") from error


def _holder(file: IO[str]) -> str:
    """Describe the holder of the lock, from a file that another user may have written."""
    try:
        file.seek(0)
        holder = json.loads(file.read(100_000))
        shown = {key: printable(holder[key], 80) for key in ("pid", "host", "since", "command")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "an unknown process"
    return "process {pid} on {host}, since {since}: {command}".format(**shown)


def _refuse_used(folder: Path) -> None:
    traces = [
        path.name
        for pattern in TRACES_OF_TRAINING
        for path in sorted(folder.glob(pattern))
        if path.stat().st_size
    ]
    if traces:
        shown = ", ".join(map(printable, traces[:4])) + (", ..." if len(traces) > 4 else "")
        raise ConfigError(
            f"OUTPUT_DIR {folder} holds an earlier training ({shown})\n"
            "go on with it by --resume, or choose another folder: OUTPUT_DIR <folder>"
        )
