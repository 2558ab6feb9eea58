"""The tests of the operators that run on the GPU, `pytest tests/segcore/ops -k cuda`: odd and empty
sizes, strides, gradcheck, opcheck, errors. On the CPU `make test` runs these and all others, so
that a few stand for them here."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from tools.gpu_check.cases import ROOT
from tools.gpu_check.results import Check, Unavailable

SELECTION = {"cuda": ["-k", "cuda"], "cpu": ["-k", "cpu and twin and PointGather"]}
SHOWN_FAILURES = 20


def run(device: str) -> Iterator[Check]:
    if find_spec("pytest") is None:
        raise Unavailable("needs pytest")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/segcore/ops"]
    answer = subprocess.run(
        [*command, *SELECTION[device]], cwd=ROOT, capture_output=True, text=True
    )
    lines = answer.stdout.strip().splitlines() or answer.stderr.strip().splitlines()
    for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))][:SHOWN_FAILURES]:
        yield Check(line.split(" - ")[0], "failed", line.partition(" - ")[2])
    # 5: nothing was selected. Tests that pass while others fail are still worth a line.
    summary = lines[-1].strip("= ") if lines else "no output"
    yield Check("all tests", "passed" if answer.returncode == 0 else "failed", summary)
