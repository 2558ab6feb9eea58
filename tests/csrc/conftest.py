"""CUDA operators compiled for the CPU."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

HOST = Path(__file__).parent / "host"
# PyTorch 2.10, as setup.py has it; what PyTorch does on a GPU alone is replaced in the source.
# -O0: -O1 takes 22 s more to compile, and the tests no less to run.
FLAGS = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC", "-Wl,-Bsymbolic"]
FLAGS += os.environ.get("CXXFLAGS", "").split()  # of tools/sanitize.py, for one
DEFINITIONS = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


@pytest.fixture(scope="session")
def on_host(tmp_path_factory):
    """The operators of csrc/cuda/ for tensors on the CPU, their kernels run lane by lane."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("csrc") / "operators.so"
    includes = [f"-I{path}" for path in (HOST, *include_paths())]
    libraries = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu"]
    source = HOST / "operators.cpp"
    command = [compiler, *FLAGS, *DEFINITIONS, *includes, source, "-o", library, *libraries]
    environment = os.environ | {"LD_PRELOAD": ""}  # sanitizers are for the tests alone
    subprocess.run(command, check=True, env=environment)
    torch.ops.load_library(library)
    return torch.ops.segcore_on_host
