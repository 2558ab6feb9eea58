"""The launcher, in real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segcore.engine.launch import launch
from segcore.errors import ConfigError, UserError

SCRIPT = """
import argparse, atexit, json, os, signal, sys, time
from pathlib import Path
import torch
from detectron2.utils import comm
from segcore.engine.launch import launch
from segcore.errors import ConfigError
from segcore.program import run_program

def report(folder):
    gathered = comm.all_gather(comm.get_rank() + 10)
    to_main = comm.gather(comm.get_rank() + 20)
    total = torch.tensor(comm.get_rank() + 1.0)
    torch.distributed.all_reduce(total)
    entry = dict(
        local=[comm.get_local_rank(), comm.get_local_size()],
        backend=torch.distributed.get_backend(),
        gathered=gathered, to_main=to_main, total=total.item(), threads=torch.get_num_threads(),
    )
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.module.itself = [model]
    model(torch.ones(1, 2)).sum().backward()
    entry["group_threads"] = [threads_of_groups()]
    path = Path(folder, f"{comm.get_rank()}.json")

    def write():
        entry["group_threads"].append(threads_of_groups())
        path.write_text(json.dumps(entry))

    atexit.register(write)

def threads_of_groups():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)

def fail(folder):
    if comm.get_rank() == 1:
        raise KeyError("broken on purpose")
    comm.synchronize()

def fail_as_user_error(folder):
    raise ConfigError(f"wrong value")

def killed(folder):
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()

def wait(folder):
    open(f"{folder}/{comm.get_rank()}.pid", "w").write(str(os.getpid()))
    if comm.get_rank() == 1:
        time.sleep(600)
    comm.synchronize()

def main(args):
    launch(globals()[args.function], 2, args=(args.folder,))

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("function")
    parser.add_argument("folder")
    sys.exit(run_program(main, parser))
"""


HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(SCRIPT)
    return path


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, **HIDDEN}, capture_output=True, text=True
    )


def check_reports(folder: Path) -> None:
    for rank in range(2):
        entry = json.loads((folder / f"{rank}.json").read_text())
        assert entry["local"] == [rank, 2]
        assert entry["backend"] == "gloo"
        assert entry["gathered"] == [10, 11]
        assert entry["to_main"] == ([20, 21] if rank == 0 else [])
        assert entry["total"] == 3.0
        assert entry["threads"] == 1
        if Path("/proc/self/task").exists():
            # One that needs Python's lock while the interpreter ends would abort the process.
            running, at_exit = entry["group_threads"]
            assert running > 0
            assert at_exit == 0


def test_two_processes_without_gpu(script: Path, tmp_path: Path):
    result = run(str(script), "report", str(tmp_path))
    assert result.returncode == 0, result.stderr
    check_reports(tmp_path)


def test_torchrun(script: Path, tmp_path: Path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    result = run(*torchrun, str(script), "report", str(tmp_path))
    assert result.returncode == 0, result.stderr
    check_reports(tmp_path)


def test_bug_of_one_process_ends_the_job_with_its_traceback(script: Path, tmp_path: Path):
    result = run(str(script), "fail", str(tmp_path))
    assert result.returncode == 1
    assert "KeyError: 'broken on purpose'" in result.stderr


def test_user_error_of_all_processes_is_said_once(script: Path, tmp_path: Path):
    result = run(str(script), "fail_as_user_error", str(tmp_path))
    assert (result.returncode, result.stderr) == (2, "error: wrong value\n")


def test_killed_process_is_named(script: Path, tmp_path: Path):
    result = run(str(script), "killed", str(tmp_path))
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: process 1 of this job \(pid \d+\) was killed by signal 9 \(SIGKILL\): "
        r"out of memory\? .*\n",
        result.stderr,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_the_launcher_ends_all(script: Path, tmp_path: Path, number: int, code: int):
    job = subprocess.Popen(
        [sys.executable, str(script), "wait", str(tmp_path)],
        env={**os.environ, **HIDDEN},
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a script it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files = [tmp_path / f"{rank}.pid" for rank in range(2)]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
        assert job.poll() is None
    job.send_signal(number)
    assert job.communicate(timeout=60)[1] == ""
    assert job.returncode == code
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


@pytest.mark.parametrize("num_processes", [0, 1])
def test_single_process_runs_here(num_processes: int):
    assert launch(lambda a, b: a + b, num_processes, args=(1, 2)) == 3


def test_auto_address_for_several_machines():
    with pytest.raises(ConfigError, match="one machine only"):
        launch(print, 1, num_machines=2, dist_url="auto")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 processes were asked for .* has 1 GPU"):
        launch(print, 2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_gpus_per_machine": -1}, "--num-gpus"),
        ({"num_machines": 0}, "--num-machines"),
        ({"num_gpus_per_machine": 0, "num_machines": 2}, "--num-gpus"),
        ({"machine_rank": 1}, "--machine-rank"),
        ({"num_machines": 2, "machine_rank": -1}, "--machine-rank"),
        ({"dist_url": "127.0.0.1:80"}, "--dist-url"),
        ({"dist_url": "tcp://127.0.0.1"}, "--dist-url"),
        ({"dist_url": "tcp://127.0.0.1:port"}, "--dist-url"),
        ({"dist_url": "tcp://127.0.0.1:70000"}, "--dist-url"),
        ({"dist_url": "http://127.0.0.1:80"}, "--dist-url"),
    ],
    ids=str,
)
def test_arguments_that_make_no_job(arguments, name):
    with pytest.raises(ConfigError, match=name):
        launch(print, **{"num_gpus_per_machine": 2, **arguments})


def test_port_in_use():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used.*--dist-url auto"):
            launch(print, 2, dist_url=f"tcp://127.0.0.1:{port}")


def test_address_that_does_not_exist():
    with pytest.raises(UserError, match=r"host\.invalid cannot be resolved"):
        launch(print, 2, dist_url="tcp://host.invalid:8686")
