"""The SLURM script, with stand-ins for the programs of SLURM and for torchrun."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from segcore.cli.train import training_parser

SCRIPT = Path(__file__).resolve().parents[2] / "tools/slurm/train.sh"
PROGRAMS = {
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "$@" > $CALLS; fi',
    "srun": 'exec "$@"',
    "torchrun": 'printf \'%q \' "$@"; if [ -n "$TIME_ENDS" ]; then kill -USR1 $PPID; fi',
}
JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, line in PROGRAMS.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{line}\n")
        path.chmod(0o755)
    return tmp_path


def submit(programs: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    calls = {"PATH": path, "CALLS": str(programs / "calls"), "TIME_ENDS": ""}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**os.environ, **JOB, **calls, **variables},
        capture_output=True,
        text=True,
    )


def test_every_node_starts_torchrun(programs: Path):
    result = submit(programs, "--config-file", "a b.yaml", "SEED", "1", SLURM_GPUS_ON_NODE="8")
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout)
    separator = words.index("train_net.py")
    options = dict(zip(words[:separator:2], words[1:separator:2], strict=True))
    assert options["--nnodes"] == "2" and options["--nproc-per-node"] == "8"
    assert options["--rdzv-endpoint"] == "node7:29500"
    arguments = training_parser().parse_args(words[separator + 1 :])
    assert arguments.resume and arguments.config_file == "a b.yaml"
    assert arguments.opts == ["SEED", "1"]
    assert not (programs / "calls").exists()


def test_job_whose_time_ends_is_queued_again(programs: Path):
    submit(programs, SLURM_GPUS_ON_NODE="8", TIME_ENDS="1")
    assert (programs / "calls").read_text() == "requeue 12\n"


def test_job_without_gpus(programs: Path):
    result = submit(programs)
    assert result.returncode != 0
    assert "expected GPUs: sbatch --gpus-per-node 8" in result.stderr
