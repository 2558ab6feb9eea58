"""NVIDIA's compute-sanitizer, where it is installed, on one forward and backward of every operator
at its smaller sizes: memcheck (accesses out of bounds, leaks of errors), racecheck (shared memory),
synccheck."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from tools.gpu_check.cases import ROOT
from tools.gpu_check.results import Check, Unavailable, checks

TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 60  # for a tool
ERROR = 7  # exit status where the tool finds something
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def run(device: str) -> Iterator[Check]:
    if device != "cuda":
        raise Unavailable("needs a GPU")
    program = shutil.which("compute-sanitizer") or next(
        (found for place in PLACES if (found := shutil.which("compute-sanitizer", path=place))),
        None,
    )
    if program is None:
        raise Unavailable("compute-sanitizer is not installed")
    yield from checks((tool, partial(_sanitize, program, tool)) for tool in TOOLS)


def _sanitize(program: str, tool: str) -> str:
    command = [program, "--tool", tool, "--error-exitcode", str(ERROR)]
    command += [sys.executable, "-m", "tools.gpu_check.run_once", "cuda"]
    # Without the cache of PyTorch, which hides accesses beyond a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        answer = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done after {SECONDS} s") from None
    output = answer.stdout + answer.stderr
    if re.search(r"Device not supported|Unable to find injection library", output):
        raise Unavailable("compute-sanitizer does not work on this machine")
    said = [line.strip("= ") for line in output.splitlines() if line.startswith("=========")]
    assert answer.returncode == 0, " ".join(said[1:6]) or output[-500:]
    return said[-1] if said else "no errors"
