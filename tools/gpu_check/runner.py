"""Running of parts, each in a process of its own with a limit of time."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from tools.gpu_check.results import Check, PartResult, Result, Table, Unavailable

PACKAGE = f"{__package__}."


def run_part(name: str, device: str, limit: float) -> PartResult:
    """Run the part of module ``name`` of this package for at most ``limit`` seconds.

    Results are sent as they come, so that those before a crash or the limit are kept.
    """
    started = time.monotonic()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(PACKAGE, name, device, sender)
    )
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    description, results = "", []
    try:
        for item in _received(receiver, started + limit):
            if isinstance(item, str):
                description = item
            else:
                results.append(item)
                _say(item)
        process.join(max(0, started + limit - time.monotonic()))
        if process.exitcode != 0:
            results.append(Check(name, "failed", f"the process ended with {process.exitcode}"))
    except TimeoutError:
        results.append(Check(name, "failed", f"not done after {limit:.0f} s"))
    finally:
        _end(process)
    return PartResult(name, description, results, time.monotonic() - started)


def _received(receiver: Connection, deadline: float) -> Iterator[str | Result]:
    while receiver.poll(max(0, deadline - time.monotonic())):
        try:
            yield receiver.recv()
        except EOFError:
            return
    raise TimeoutError


def _end(process: multiprocessing.Process) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):  # it has ended, or has no group yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _work(package: str, name: str, device: str, sender: Connection) -> None:
    os.setsid()
    try:
        part = importlib.import_module(package + name)
        sender.send(part.__doc__ or "")
        for result in part.run(device):
            sender.send(result)
    except (Unavailable, ImportError) as reason:
        sender.send(Check(name, "skipped", str(reason)))
    except Exception as error:
        sender.send(Check(name, "failed", f"{type(error).__name__}: {error}"))


def _say(result: Result) -> None:
    if isinstance(result, Check):
        print(f"  {result.outcome}  {result.name}  {result.detail}"[:200], flush=True)
    elif isinstance(result, Table):
        print(f"  table  {result.title}", flush=True)
