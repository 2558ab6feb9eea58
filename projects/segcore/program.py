"""Running of a command: exit codes, and errors as its user sees them.

Imports neither PyTorch nor Detectron2, so that a command can report that one of them is missing.
"""

import argparse
import errno
import logging
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pkgutil import resolve_name

from segcore.errors import OutputError, UserError, causes
from segcore.files import no_space_error
from segcore.text import printable

INTERRUPTED = 128 + signal.SIGINT  # exit code, as in a shell
PEER_GRACE = 3  # seconds for a failed process to be noticed before its peers fail for lack of it
TORCHRUN_GRACE = 10  # likewise; it notices a process only once that has ended altogether

# Errors that machine or arguments can cause; other codes, such as EBADF, mean a bug.
_SYSTEM_ERRORS = {
    errno.EACCES,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# Operators and allocators report it as RuntimeError; libraries that wrap it keep the words.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    r"|unable to allocate|ALLOC_FAILED|std::bad_alloc",
    re.IGNORECASE,
)
_SHARED_MEMORY_FULL = re.compile(r"/torch_\w+|insufficient shared memory|bus error", re.IGNORECASE)
_DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?(?P<pid>[\d, ]+)\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)"
)
# Message of PyTorch's exception for one of a worker, which has the same type.
_WORKER_EXCEPTION = re.compile(r"Caught (?P<name>\w+) in DataLoader worker process \d+\.")
_LOST_PEER = re.compile(
    r"Connection (?:closed|reset) by peer|remote process exited|Broken pipe.*gloo"
    r"|gloo.*Broken pipe|Connection refused.*gloo|NCCL communicator was aborted",
    re.IGNORECASE | re.DOTALL,
)

MEMORY_ADVICE = (
    "Training: lower SOLVER.IMS_PER_BATCH, INPUT.IMAGE_SIZE or MIN_SIZE_TRAIN, or raise "
    "SOLVER.ACCUMULATE;\nevaluation and prediction: lower TEST.IMS_PER_BATCH or "
    "INPUT.MIN_SIZE_TEST; memory of the host: DATALOADER.NUM_WORKERS"
)


class LostConnectionError(UserError):
    """Another process of the job has ended; its output has the reason."""


def run_program(
    main: str | Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments and run ``main(args)``; report errors that a user can mend plainly.

    Errors that :func:`explain` knows are printed as ``error: <one to three lines>`` on standard
    error, without traceback unless ``--debug`` is given, which this function adds to the parser.
    Other exceptions are bugs and propagate, so that Python prints their traceback.

    Args:
        main: the function, or its name as "module:function": the module is imported after the
            arguments are parsed, so that ``--help`` and wrong arguments are answered at once.

    Returns:
        The exit code: that of ``main`` (None counts as 0), 2 for usage and configuration, 1 for
        other errors, 130 after Ctrl-C.
    """
    _print_any_text()
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    args = parser.parse_args(argv)
    # A log that cannot be written, as on a full disk, must not fill the terminal with tracebacks.
    logging.raiseExceptions = False
    # Pillow's, of broken metadata, name no file and can be thousands.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        function = resolve_name(main) if isinstance(main, str) else main
        code = function(args) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        _discard_output()
        return 1
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        _let_others_speak_first(known)
        if args.debug:
            traceback.print_exc()
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code


def explain(error: BaseException) -> UserError | None:
    """Return an error for the user that explains ``error``, or None for a bug.

    Known are errors of this package, errors of the machine's state (files, disk, sockets, memory)
    even if a library has wrapped them, and all of these from a ``DataLoader`` worker.
    """
    if isinstance(error, UserError):
        return _without_worker_traceback(error)
    if is_out_of_memory(error):
        return UserError(_out_of_memory_message(error))
    full_disk = no_space_error(error)
    if full_disk is not None:
        named = (cause for cause in causes(error) if isinstance(cause, OutputError))
        return next(named, OutputError(_system_message(full_disk)))
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, RuntimeError):
        return _explain_runtime_error(str(error))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory of the host or of a GPU was exhausted, however it is reported."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def _explain_os_error(error: OSError) -> UserError | None:
    if isinstance(error, socket.gaierror):
        return UserError(f"a network address cannot be resolved: {error.strerror or error}")
    if error.errno is None:
        # Raised by hand, with a message.
        return UserError(_first_lines(_original_message(error)))
    return UserError(_system_message(error)) if error.errno in _SYSTEM_ERRORS else None


def _explain_runtime_error(text: str) -> UserError | None:
    dead = _DEAD_WORKER.search(text)
    if dead:
        cause = "was killed" if dead["signal"] else "ended unexpectedly"
        advice = (
            "the shared memory is full (/dev/shm; docker run --shm-size)"
            if _SHARED_MEMORY_FULL.search(text)
            else "the memory may be exhausted"
        )
        return UserError(
            f"a worker of the data loader (process {dead['pid'].strip()}) {cause}"
            + (f" by signal: {dead['signal']}" if dead["signal"] else "")
            + f"; {advice}. DATALOADER.NUM_WORKERS 0 loads without workers"
        )
    if "DataLoader timed out" in text:
        return UserError(
            f"{_first_lines(text, 1)}: the workers of the data loader give nothing; see what they "
            "printed. DATALOADER.NUM_WORKERS 0 loads without workers"
        )
    for code in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(code) in text:
            advice = " (/dev/shm; docker run --shm-size)" if "/torch_" in text else ""
            return OutputError(f"{os.strerror(code)}{advice}: {_first_lines(text, 1)}")
    if os.strerror(errno.EMFILE) in text:
        return UserError(f"{_first_lines(text, 1)}: raise the limit (ulimit -n)")
    if _LOST_PEER.search(text):
        return LostConnectionError(
            "the connection to another process of this job is lost; that process has probably "
            "ended: see what it printed"
        )
    return None


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    advice = ""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = ": raise the limit (ulimit -n), or lower DATALOADER.NUM_WORKERS"
    elif error.errno == errno.EADDRINUSE:
        advice = ": choose another port (--dist-url)"
    return ": ".join([*(printable(name) for name in names[:1]), reason]) + advice


def _out_of_memory_message(error: BaseException) -> str:
    text = _original_message(error)
    amount = re.search(
        r"[Tt]ried to allocate ([\d.]+ \wi?B|\d+ bytes)|allocate ([\d.]+ \wi?B)", text
    )
    device = "of the GPU" if re.search(r"CUDA|CUBLAS|GPU", text) else "of the host"
    tried = f", {amount[1] or amount[2]} were asked for" if amount else ""
    return f"the memory {device} is exhausted{tried}.\n{MEMORY_ADVICE}"


def _without_worker_traceback(error: UserError) -> UserError:
    message = _original_message(error)
    if message == str(error):
        return error
    known = UserError(message)
    known.exit_code = error.exit_code
    return known


def _original_message(error: BaseException) -> str:
    """Return the message, without the traceback of the worker if a ``DataLoader`` worker failed."""
    text = str(error)
    match = _WORKER_EXCEPTION.match(text)
    if match is None:
        return text
    # The traceback ends in "package.Name: message"; the message may have further lines.
    ends = list(re.finditer(rf"^(?:[\w.]+\.)?{match['name']}: ", text, re.MULTILINE))
    return text[ends[-1].end() :].rstrip() if ends else text


def _first_lines(text: str, number: int = 3) -> str:
    return "\n".join(text.strip().splitlines()[:number])


def _let_others_speak_first(error: UserError) -> None:
    """Print an error once under torchrun, which ends all processes once one has failed.

    Rank 0 comes first, and errors about lost processes after those of these processes.
    """
    is_first = os.environ.get("RANK", "0") == "0" and not isinstance(error, LostConnectionError)
    if "TORCHELASTIC_RUN_ID" in os.environ and not is_first:
        time.sleep(TORCHRUN_GRACE)


def _print_any_text() -> None:
    """Make output escape what the encoding of the terminal lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        # Replaced by one without encoding, or closed.
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")


def _output_is_closed() -> bool:
    """Return whether standard output or error is closed, as after ``| head``."""
    outputs = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # replaced by one without a file
            outputs.register(stream.fileno(), 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in outputs.poll(0))


def _discard_output() -> None:
    """Redirect standard output, as Python's last flush would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
