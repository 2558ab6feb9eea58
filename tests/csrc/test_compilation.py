"""CUDA's compiler takes the kernels for GPUs older than the newest instructions."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, CUDA's compiler")
def test_compiles_for_ampere_without_spills(tmp_path):
    """The operator with atomics on vectors, which Ampere does not have."""
    flags = ["-std=c++20", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    flags += ["--expt-relaxed-constexpr", "-arch=sm_80", "-cubin", "--ptxas-options=-v"]
    includes = [f"-I{path}" for path in include_paths()]
    source, target = SOURCES / "ms_deform_attn.cu", tmp_path / "kernels.cubin"
    command = ["nvcc", *flags, *includes, source, "-o", target]
    # nvcc cannot run with the libraries that tools/sanitize.py preloads.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    reports = [line for line in run.stderr.splitlines() if "spill" in line]
    assert reports and all("0 bytes spill stores" in line for line in reports)
