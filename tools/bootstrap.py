#!/usr/bin/env python3
"""Make ``.venv`` and install all that the project needs, compiled operators included.

    python3 tools/bootstrap.py [--cuda]

Each step leaves a stamp in ``.venv`` when it is finished: a step is repeated if the files that it
depends on have changed, or if it was interrupted. Uses only the standard library of Python 3.10 or
newer, which the Makefile checks.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
STAMPS = VENV / "stamps"
BUILD_LOG = VENV / "operators.log"
# Relative, since pip takes a space in this variable for a separator; commands run in ROOT.
CONSTRAINTS = "requirements-ci.txt"
# A100, H100 and what is compatible with them; newer GPUs compile the PTX when they load it.
CUDA_ARCHITECTURES = "8.0;9.0+PTX"


class SetupError(RuntimeError):
    """A reason why the set-up cannot go on; shown without a traceback."""


class Step(NamedTuple):
    """Step of the set-up: due unless the stamp ``name`` matches the files ``inputs``."""

    name: str
    title: str
    inputs: tuple[str, ...]
    run: Callable[[], None]
    output: str = ""  # pattern of a file that has to be there, if any
    without: str = ""  # consequence of a failure of this step; if empty, the set-up stops


def install_packages() -> None:
    pip("install", "setuptools", "wheel", "ninja")
    # Without isolation, else PyTorch would be downloaded once more, only for building.
    pip("install", "--no-build-isolation", "--editable", ".[dev]", SEGCORE_BUILD_OPERATORS="0")


def install_detectron2() -> None:
    run([PYTHON, "-m", "segcore.install_detectron2"], PIP_CONSTRAINT=CONSTRAINTS)


def build_operators(**environment: str) -> None:
    """Compile csrc/ in place; output goes to ``BUILD_LOG``, errors are shown too."""
    command = [str(PYTHON), "setup.py", "build_ext", "--inplace"]
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", os.defpath)])  # for ninja
    environment = {**os.environ, "PATH": path, **cuda_environment(), **environment}
    with BUILD_LOG.open("w") as log:
        build = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    if build.returncode != 0:
        errors = [
            line[:200] for line in BUILD_LOG.open() if re.search(r"\b[Ee]rror\b|not found", line)
        ]
        raise SetupError(
            f"the operators could not be compiled, see {BUILD_LOG}\n"
            + "".join(errors[:10]).rstrip()
        )


STEPS = (
    Step(
        "packages",
        "Installing PyTorch and the other requirements (about 6 GB on Linux)",
        ("pyproject.toml", CONSTRAINTS),
        install_packages,
    ),
    Step(
        "detectron2",
        "Installing Detectron2 and panopticapi",
        ("projects/segcore/install_detectron2.py", CONSTRAINTS),
        install_detectron2,
    ),
    Step(
        "operators",
        "Compiling the operators",
        ("setup.py", "csrc/**/*.*", CONSTRAINTS),
        build_operators,
        output="projects/segcore/_C*.so",
        without="PyTorch's slower operators are used instead",
    ),
)


def make_venv() -> None:
    """Create ``.venv`` unless a working one exists."""
    if probe([PYTHON, "-m", "pip", "--version"]):
        return
    say(f"Making {VENV.name} with Python {sys.version.split()[0]}")
    try:
        venv.create(VENV, clear=True, with_pip=True)
    except (subprocess.CalledProcessError, ModuleNotFoundError) as error:
        raise SetupError(
            f"Python's venv module is incomplete ({error}); on Debian and Ubuntu install the "
            "package python3-venv"
        ) from error


def cuda_environment() -> dict[str, str]:
    """Return variables with the toolkit of the PATH's nvcc and the headers of PyTorch, if any.

    nvcc may be a script that calls another, so it is asked where it lies. The toolkit may lack the
    headers of cuBLAS and the like that PyTorch's include.
    """
    if shutil.which("nvcc") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.cu")
        source.touch()
        answer = subprocess.run(
            ["nvcc", "--dryrun", "-c", source, "-o", os.devnull], capture_output=True, text=True
        )
    match = re.search(r"_HERE_=(.+)", answer.stderr)
    if match is None:
        return {}
    toolkit = Path(match[1].strip()).parent
    headers = VENV.glob("lib/python*/site-packages/nvidia/cu[0-9]*/include")
    return {
        "CUDA_HOME": str(toolkit),
        "CPATH": search_path("CPATH", *headers),
        "LIBRARY_PATH": search_path("LIBRARY_PATH", toolkit / "lib64"),
    }


def search_path(variable: str, *folders: Path) -> str:
    """Return the path list of an environment variable with ``folders`` appended."""
    return os.pathsep.join(filter(None, [os.environ.get(variable), *map(str, folders)]))


def build_cuda() -> None:
    """Compile the GPU code too, with or without a GPU in this machine."""
    if not cuda_environment():
        raise SetupError("nvcc, CUDA's compiler, is not on the PATH")
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    started = time.monotonic()
    say(f"Compiling the operators for the CPU and CUDA architectures {architectures}")
    build_operators(FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST=architectures)
    say(f"Compiled in {time.monotonic() - started:.0f} s")


def digest(step: Step) -> str:
    """Return the fingerprint of the location and contents of the step's input files."""
    state = hashlib.sha256(str(ROOT).encode())
    for path in sorted(path for pattern in step.inputs for path in ROOT.glob(pattern)):
        state.update(str(path.relative_to(ROOT)).encode())
        state.update(path.read_bytes())
    return state.hexdigest()


def is_done(step: Step) -> bool:
    stamp = STAMPS / step.name
    return (
        stamp.is_file()
        and stamp.read_text() == digest(step)
        and (not step.output or any(ROOT.glob(step.output)))
    )


def bootstrap() -> None:
    """Take the steps that are due."""
    if not STAMPS.is_dir() or not probe([PYTHON, "--version"]):
        make_venv()
    STAMPS.mkdir(exist_ok=True)
    due = [step for step in STEPS if not is_done(step)]
    for number, step in enumerate(due, 1):
        started = time.monotonic()
        say(f"[{number}/{len(due)}] {step.title}")
        stamp = STAMPS / step.name
        stamp.unlink(missing_ok=True)
        try:
            step.run()
        except SetupError as error:
            if not step.without:
                raise
            say(f"WARNING: {error}\n==> {step.without}")
            continue
        stamp.write_text(digest(step))
        say(f"[{number}/{len(due)}] done in {time.monotonic() - started:.0f} s")


def pip(*arguments: str, **environment: str) -> None:
    """Run the virtual environment's pip, held to the pinned versions."""
    run([PYTHON, "-m", "pip", *arguments], PIP_CONSTRAINT=CONSTRAINTS, **environment)


def run(command: list[str | Path], **environment: str) -> None:
    """Run ``command`` in ROOT, its output shown."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    if subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL).returncode != 0:
        words = " ".join(map(str, command))
        raise SetupError(f"failed: {words}\nRun the same again: it goes on where it stopped.")


def probe(command: list[str | Path]) -> bool:
    """Return whether ``command`` can be run and succeeds."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cuda", action="store_true", help="compile the GPU code too, without GPU")
    arguments = parser.parse_args()
    try:
        bootstrap()
        if arguments.cuda:
            build_cuda()
    except SetupError as error:
        sys.exit(f"tools/bootstrap.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\ntools/bootstrap.py: interrupted; run again, it goes on where it stopped")


if __name__ == "__main__":
    main()
