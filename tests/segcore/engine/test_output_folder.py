"""One run at a time in an output folder, and one training unless it is resumed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segcore.engine.output_folder import LOCK_NAME, output_folder
from segcore.errors import ConfigError, OutputError

# Without segcore.engine, whose import takes seconds.
HOLDER = """
import fcntl, json, os, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator:
    """A function that holds the lock of ``tmp_path`` in another process."""
    processes = []

    def start(content: str) -> subprocess.Popen:
        command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / LOCK_NAME), content]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def enter(path: Path | str, trains_anew: bool = False) -> None:
    with output_folder(str(path), trains_anew=trains_anew):
        pass


def test_second_run_is_told_who_holds_the_folder(tmp_path, hold):
    holder = {"host": "node7", "pid": 4711, "since": "2026-11-21", "command": "train_net.py\x1b[2J"}
    process = hold(json.dumps(holder))
    expected = r"process 4711 on node7, since 2026-11-21: train_net.py\\x1b\[2J"
    with pytest.raises(OutputError, match=expected):
        enter(tmp_path)
    process.kill()
    process.wait()
    enter(tmp_path)  # the lock of a dead process holds nobody back


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 50_000])
def test_unreadable_holder(tmp_path, hold, content):
    hold(content)
    with pytest.raises(OutputError, match="an unknown process"):
        enter(tmp_path)


def test_lock_names_this_process(tmp_path):
    with output_folder(str(tmp_path / "new"), trains_anew=True) as folder:
        holder = json.loads((folder / LOCK_NAME).read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(OutputError, match="in use by this process already"):
            enter(folder)
    enter(tmp_path / "new", trains_anew=True)


@pytest.mark.parametrize("name", ["last_checkpoint", "metrics.json", "model_0000001.pth"])
def test_used_folder_is_not_trained_into_anew(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    enter(tmp_path, trains_anew=True)  # of a run that failed before its first iteration
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(ConfigError, match=rf"OUTPUT_DIR .*{name}[\s\S]*--resume.*OUTPUT_DIR"):
        enter(tmp_path, trains_anew=True)
    enter(tmp_path, trains_anew=False)


def test_partial_files_of_killed_runs_go(tmp_path):
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    left = tmp_path / "derived" / f".{socket.gethostname()}-{process.pid}-0.partial"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"half")
    enter(tmp_path)
    assert not left.exists()


def test_paths_that_are_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, error in [
        ("", ConfigError),
        ("nul\0byte", ConfigError),
        (tmp_path / "file", OutputError),
        (tmp_path / "file" / "below", OutputError),
        (tmp_path / ("long" * 100), OutputError),
        ("/proc/nowhere", OutputError),
    ]:
        with pytest.raises(error, match="OUTPUT_DIR"):
            enter(path)
