"""Files that only the main process of a job can see, made available to all processes."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import torch.distributed as dist
from detectron2.utils import comm

from segcore.errors import CheckpointError
from segcore.text import printable

PIECE_BYTES = 64 << 20

logger = logging.getLogger(__name__)
T = TypeVar("T")


class SharedFile(NamedTuple):
    """A file that every process of a job can open.

    Attributes:
        path: on this process.
        source: on the main process, for messages.
    """

    path: str
    source: str


def from_main_process(make: Callable[[], T]) -> T:
    """Call ``make`` on the main process and return its (small) result on all processes.

    Every process of the job must call it.

    Raises:
        CheckpointError: ``make`` has raised it; on all processes.
    """
    result = error = None
    if comm.is_main_process():
        try:
            result = make()
        except CheckpointError as failure:
            error = failure
    result, error = comm.all_gather((result, error))[0]
    if error is not None:
        raise error
    return result


@contextmanager
def shared_file(find: Callable[[], str]) -> Iterator[SharedFile]:
    """Provide a file of the main process to all processes, as a temporary copy where need be.

    Every process of the job must call it. Bytes are copied, never interpreted.

    Args:
        find: returns the path, or raises a CheckpointError where there is no such file.

    Raises:
        CheckpointError: the main process cannot find the file.
    """
    path = error = None
    try:
        path = find()
    except CheckpointError as failure:
        error = failure
    views = comm.all_gather((path, error))
    (source, main_error), *others = views
    if main_error is not None:
        raise main_error
    if all(other_error is None for _, other_error in others):
        yield SharedFile(path, source)
        return
    without = [rank for rank, (_, rank_error) in enumerate(views) if rank_error is not None]
    logger.warning(
        "%s: process(es) %s cannot see this file: the main process sends it to them",
        printable(source),
        ", ".join(map(str, without)),
    )
    with TemporaryDirectory(prefix="checkpoint_") as folder:
        copy = Path(folder, os.path.basename(source)) if path is None else None
        _broadcast_file(source, copy)
        yield SharedFile(path or str(copy), source)


def _broadcast_file(source: str, copy: Path | None) -> None:
    """Send a file of the main process piece by piece; processes with a ``copy`` path write it."""
    is_sender = comm.is_main_process()
    with open(source if is_sender else copy or os.devnull, "rb" if is_sender else "wb") as file:
        while True:
            piece = [file.read(PIECE_BYTES) if is_sender else None]
            dist.broadcast_object_list(piece)
            if not piece[0]:
                return
            if not is_sender:
                file.write(piece[0])
