"""Messages of a run: on the terminal, and in full in ``log.txt``."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from segcore.errors import OutputError
from segcore.files import write_bytes
from segcore.loggers import without_warnings_of
from segcore.program import explain
from segcore.registry import project_entry_points

FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"

FILE_ONLY = {"file_only": True}  # ``extra`` of a message too long for the terminal

logger = logging.getLogger(__name__)


def package_names() -> list[str]:
    """Return the top-level packages whose messages are shown, installed projects among them."""
    projects = {entry.value.split(".")[0] for entry in project_entry_points()}
    return ["fvcore", "detectron2", "segcore", *sorted(projects)]


@contextmanager
def run_log(folder: Path | None) -> Iterator[None]:
    """Show messages of the main process, and write those of every process to a file.

    Args:
        folder: for ``log.txt``, or ``log.txt.rank<r>`` on process r > 0; None writes no file.

    Raises:
        OutputError: the file cannot be opened.
    """
    rank = comm.get_rank()
    loggers = [setup_logger(distributed_rank=rank, name=name) for name in package_names()]
    for handler in {handler for log in loggers for handler in log.handlers}:
        handler.addFilter(_is_for_terminal)
    if folder is None:
        yield
        return
    file = _open_log(folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    for log in loggers:
        log.addHandler(file)
    try:
        yield
    finally:
        for log in loggers:
            log.removeHandler(file)
        file.close()


def record_setup(cfg: CfgNode, folder: Path) -> None:
    """Log machine and command line; keep the whole config in ``config.yaml``.

    Raises:
        OutputError: the file cannot be written.
    """
    with without_warnings_of("torch.utils.cpp_extension"):  # on a CUDA that nothing here needs
        environment = collect_env_info()
    logger.info("Process %d of %d", comm.get_rank(), comm.get_world_size())
    logger.info("Environment:\n%s", environment, extra=FILE_ONLY)
    logger.info("Command line: %s", shlex.join(sys.argv), extra=FILE_ONLY)
    if comm.is_main_process():
        path = folder / "config.yaml"
        write_bytes(cfg.dump().encode(), path)
        logger.info("Full config: %s", path)


class _LogFile(logging.FileHandler):
    """Log file that drops lines it cannot write, as on a full disk, so that training goes on."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _open_log(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # on another machine of the job
        file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    file.setFormatter(logging.Formatter(FORMAT, datefmt="%m/%d %H:%M:%S"))
    return file


def _is_for_terminal(record: logging.LogRecord) -> bool:
    # Detectron2 logs the traceback of an error that ends training; run_program prints its message.
    is_explained = bool(record.exc_info) and explain(record.exc_info[1]) is not None
    return not is_explained and not getattr(record, "file_only", False)
