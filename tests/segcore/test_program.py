"""How a program ends: exit codes, messages, and tracebacks for bugs only."""

import argparse
import errno
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from segcore.data.images import read_image
from segcore.errors import ConfigError, ImageError, OutputError
from segcore.program import MEMORY_ADVICE, explain, run_program


def run(main: Callable, *argv: str) -> int:
    return run_program(main, argparse.ArgumentParser(), argv)


def raising(error: BaseException) -> Callable:
    def main(args: argparse.Namespace) -> None:
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_code_of_main(returned, code):
    assert run(lambda args: returned) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("SOLVER.MAX_ITER is 0"), 2), (ImageError("a.jpg is empty"), 1)],
)
def test_user_error_is_its_message_alone(error, code, capsys):
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_debug_shows_the_traceback_too(capsys):
    assert run(raising(ConfigError("wrong")), "--debug") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("error: wrong\n")


def test_bugs_pass():
    with pytest.raises(KeyError):
        run(raising(KeyError("bug")))


def test_interrupt_is_quiet(capsys):
    assert run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENOENT, errno.EADDRINUSE]
)
def test_state_of_the_machine_is_said_in_one_line(number, capsys):
    assert run(raising(OSError(number, os.strerror(number), "some/file"))) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: some/file: {os.strerror(number)}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "bug", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("shapes do not match")]
)
def test_bugs_are_not_explained(bug):
    assert explain(bug) is None


def chained(*errors: Exception) -> Exception:
    """The last of them, each raised while the one before was handled."""
    for earlier, later in pairwise(errors):
        later.__context__ = earlier
    return errors[-1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_anywhere_in_the_chain(number):
    disk = OSError(number, os.strerror(number))
    error = chained(disk, RuntimeError("PytorchStreamWriter failed"), RuntimeError("position"))
    assert isinstance(explain(error), OutputError)
    assert os.strerror(number) in str(explain(error))
    named = OutputError("model.pth: cannot be written")
    assert explain(chained(disk, named, RuntimeError("position"))) is named


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_exhausted_memory_names_keys(error, capsys):
    assert run(raising(error)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: the memory of the ")
    assert printed.endswith(f"{MEMORY_ADVICE}\n")
    assert printed.count("\n") == 3


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("DataLoader timed out after 1800 seconds", "DATALOADER.NUM_WORKERS 0"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "process 7) was killed"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "7, 8) ended unexpectedly"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "shm"),
        ("unable to write to file </torch_1_2>: No space left on device (28)", "shm-size"),
        ("unable to open </torch_1>: Too many open files (24)", "ulimit -n"),
        ("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:3456", "another process"),
    ],
)
def test_words_of_pytorch(text, printed):
    message = str(explain(RuntimeError(text)))
    assert printed in message
    assert "\n" not in message


class Failing(torch.utils.data.Dataset):
    def __init__(self, error: Exception):
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        raise self.error


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (ImageError("a.jpg is empty\nin line two"), "error: a.jpg is empty\nin line two\n"),
        (ConfigError("wrong: value"), "error: wrong: value\n"),
    ],
)
def test_error_of_a_loader_worker(error, printed, capsys):
    def main(args: argparse.Namespace) -> None:
        next(iter(DataLoader(Failing(error), num_workers=1)))

    assert run(main) == error.exit_code
    assert capsys.readouterr().err == printed


def test_bug_in_a_loader_worker_passes():
    with pytest.raises(KeyError, match="DataLoader worker"):
        run(lambda args: next(iter(DataLoader(Failing(KeyError("bug")), num_workers=1))))


def test_reader_that_goes_away_is_no_error(tmp_path: Path):
    script = tmp_path / "long.py"
    script.write_text(
        "import argparse, sys\n"
        "from segcore.program import run_program\n"
        "def main(args):\n"
        "    for _ in range(100_000):\n"
        "        print('line')\n"
        "sys.exit(run_program(main, argparse.ArgumentParser()))\n"
    )
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout.readline() == "line\n"
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() == 1


def test_warnings_of_broken_metadata_are_quiet(tmp_path):
    """Pillow's name no file; those of other libraries stay."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09"  # nine tags, of which there is none
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", exif=exif)

    def main(args: argparse.Namespace) -> None:
        read_image(tmp_path / "a.jpg")
        warnings.warn("of another library", stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(tmp_path / "a.jpg")
        assert caught
        caught.clear()
        run(main)
    assert [str(warning.message) for warning in caught] == ["of another library"]


def test_text_that_the_terminal_cannot_show_is_escaped(monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert run_program(lambda args: print("日本.png"), argparse.ArgumentParser(), []) == 0
    assert output.getvalue() == b"\\u65e5\\u672c.png\n"
