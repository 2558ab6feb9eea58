"""CUDA kernels compiled for the CPU."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths


@pytest.fixture(scope="module")
def kernels(request, tmp_path_factory):
    """The library of the source file that the test module names as ``SOURCE``."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    includes = [f"-I{path}" for path in include_paths()]
    source = Path(__file__).parent / request.module.SOURCE
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", *includes, source, "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))
