"""The launcher, in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segcore.engine.launch import launch

SCRIPT = """
import json, sys
import torch
from detectron2.utils import comm
from segcore.engine.launch import launch

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
    with open(f"{folder}/{comm.get_rank()}.json", "w") as file:
        json.dump(entry, file)

def fail(folder):
    if comm.get_rank() == 1:
        raise ValueError("broken on purpose")
    comm.synchronize()

if __name__ == "__main__":
    launch(globals()[sys.argv[1]], 2, args=(sys.argv[2],))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(SCRIPT)
    return path


def run(*command: str) -> subprocess.CompletedProcess:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, **hidden}, capture_output=True, text=True
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


def test_two_processes_without_gpu(script: Path, tmp_path: Path):
    result = run(str(script), "report", str(tmp_path))
    assert result.returncode == 0, result.stderr
    check_reports(tmp_path)


def test_torchrun(script: Path, tmp_path: Path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    result = run(*torchrun, str(script), "report", str(tmp_path))
    assert result.returncode == 0, result.stderr
    check_reports(tmp_path)


def test_error_of_one_process_ends_the_job(script: Path, tmp_path: Path):
    result = run(str(script), "fail", str(tmp_path))
    assert result.returncode != 0
    assert "broken on purpose" in result.stderr


@pytest.mark.parametrize("num_processes", [0, 1])
def test_single_process_runs_here(num_processes: int):
    assert launch(lambda a, b: a + b, num_processes, args=(1, 2)) == 3


def test_auto_address_for_several_machines():
    with pytest.raises(ValueError, match="one machine only"):
        launch(print, 1, num_machines=2, dist_url="auto")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 processes were asked for .* has 1 GPU"):
        launch(print, 2)
