#!/usr/bin/env python3
"""Test the CPU operators under AddressSanitizer and UndefinedBehaviorSanitizer (Linux, GCC).

    python tools/sanitize.py [arguments of pytest]

Builds a package with a sanitized library in ``build/sanitize``, beside the ordinary library, which
stays as it is. Leaks are not looked for: PyTorch and Python keep thousands of blocks to the end.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/sanitize"
PACKAGES = BUILD / "packages"
LIBRARY = PACKAGES / "segcore/_C.abi3.so"
CHECKS = "address,undefined,float-cast-overflow,bounds-strict"
# Python's own flags may have -fwrapv, which hides overflow of signed integers.
FLAGS = f"-O1 -fno-wrapv -fsanitize={CHECKS} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
TESTS = ("tests/segcore/ops", "tests/segcore/layers", "tests/csrc")


def build() -> None:
    """Build ``PACKAGES``, reusing objects of an earlier build with the same sources."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    environment = os.environ | {
        "SEGCORE_CPU_FLAGS": FLAGS,
        "LDFLAGS": f"-fsanitize={CHECKS}",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # ninja
    }
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", BUILD]
    # --force: else the ordinary library, which is copied with the packages, counts as built.
    command += ["--build-lib", PACKAGES, "--force"]
    with (BUILD / "build.log").open("w") as log:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log).returncode
    if code != 0 or b"__asan_init" not in LIBRARY.read_bytes():
        sys.exit(f"tools/sanitize.py: no sanitized library was built, see {log.name}")


def runtimes() -> str:
    """Return the libraries of the sanitizers, to be loaded before Python."""
    paths = [
        subprocess.check_output([os.environ.get("CXX", "g++"), f"-print-file-name={name}"])
        for name in ("libasan.so", "libubsan.so")
    ]
    return ":".join(path.decode().strip() for path in paths)


def test(arguments: list[str]) -> int:
    """Run the tests of the operators with the sanitized library; return pytest's exit code."""
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGES),
        "LD_PRELOAD": runtimes(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "CXXFLAGS": FLAGS,  # of the CUDA kernels that tests/csrc compiles for the CPU
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }
    command = [sys.executable, "-m", "pytest", *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    _, arguments = parser.parse_known_args()
    started = time.monotonic()
    BUILD.mkdir(parents=True, exist_ok=True)
    build()
    print(f"==> Built with sanitizers in {time.monotonic() - started:.0f} s", flush=True)
    return test(arguments)


if __name__ == "__main__":
    sys.exit(main())
