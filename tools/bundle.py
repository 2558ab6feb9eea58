"""Pack what ``make gpu-check`` needs beside PyTorch into one file for a machine without network.

    python -m tools.bundle [--python 3.12] [--output dist]

The file is a zip that Python runs (``tools/bundle_main.py`` is what it runs): wheels of the
project with its compiled libraries, of Detectron2 and of the packages that both need, pure Python
or matching that version of Python, and the files beside the packages. NumPy, SciPy and Pillow are
taken from that machine. Needs the network, or pip's cache, and the libraries (``make cuda``).
"""

import argparse
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from segcore import install_detectron2
from tools.wheel import WheelError, build_wheel, compiled_libraries, run

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "requirements-ci.txt"
LARGEST = 45 * 2**20  # bytes
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")

FILES = (
    "LICENSE", "pyproject.toml", "train_net.py", "demo.py", "benchmarks/**/*", "configs/**/*",
    "docs/*.md", "tools/**/*", "tests/operator_*.py", "tests/segcore/conftest.py",
    "tests/segcore/ops/*.py",
)  # fmt: skip
PACKAGES = (
    # of the project
    "pycocotools", "safetensors", "tabulate", "tqdm", "typing-extensions", "panopticapi-lite",
    # of Detectron2
    "antlr4-python3-runtime<4.10", "cloudpickle", "fvcore", "iopath", "omegaconf", "packaging",
    "portalocker", "pydot", "pyparsing", "pyyaml", "termcolor", "torchvision", "yacs",
    # of the tests
    "iniconfig", "pluggy", "pygments", "pytest",
)  # fmt: skip


class BundleError(RuntimeError):
    """A reason why there is no bundle; shown without a traceback."""


def make_bundle(python: str, output: Path) -> Path:
    """Write the bundle for a version of Python, "3.12" for example, into a folder."""
    tag = f"cp{python.replace('.', '')}"
    bundle = output / f"panoptic-toolkit-{tag}.pyz"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = folder / "wheels"
        build_wheel(folder / "build", wheels, compiled_libraries(cuda=True))
        detectron2_wheel(folder / "detectron2", wheels)
        for package in PACKAGES:
            package_wheel(package, python, wheels)
        output.mkdir(parents=True, exist_ok=True)
        pack(wheels, python, folder / bundle.name)
        size = (folder / bundle.name).stat().st_size
        if size > LARGEST:
            raise BundleError(f"{bundle.name} has {size / 2**20:.1f} MiB, at most 45 are allowed")
        shutil.move(folder / bundle.name, bundle)
    say(f"{bundle}: {size / 2**20:.1f} MiB")
    return bundle


def detectron2_wheel(folder: Path, wheels: Path) -> None:
    """Build the wheel of Detectron2's Python files."""
    folder.mkdir()
    wheel = install_detectron2.build_wheel(install_detectron2.download_sdist(folder), folder)
    shutil.copy(wheel, wheels)


def package_wheel(package: str, python: str, wheels: Path) -> None:
    """Download the wheel of a package for that Python, or build it where it is pure Python."""
    say(package)
    before = set(wheels.iterdir())
    common = ["--no-deps", "--quiet", package]
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    selection = ["--only-binary=:all:", f"--python-version={python}", *platforms]
    try:
        pip("download", *common, *selection, "--dest", wheels)
    except WheelError:  # there is a source distribution only
        pip("wheel", *common, "--wheel-dir", wheels)
    for wheel in set(wheels.iterdir()) - before:
        if re.search(r"-(py3-none|cp3\d+-abi3)-|-any\.whl$", wheel.name) is None and (
            f"-cp{python.replace('.', '')}-" not in wheel.name
        ):
            raise BundleError(f"{wheel.name} is not for Python {python}")


def pack(wheels: Path, python: str, bundle: Path) -> None:
    """Zip wheels and files with the program that unpacks them."""
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(ROOT / "tools/bundle_main.py", "__main__.py")
        archive.writestr("python.txt", python)
        for wheel in sorted(wheels.iterdir()):
            archive.write(wheel, f"wheels/{wheel.name}", compress_type=zipfile.ZIP_STORED)
        for file in files():
            archive.write(file, f"files/{file.relative_to(ROOT)}")


def files() -> Iterator[Path]:
    """Yield the files beside the packages."""
    for pattern in FILES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def pip(*arguments: str | Path) -> None:
    """Run this Python's pip, held to the pinned versions."""
    run(sys.executable, "-m", "pip", *arguments, PIP_CONSTRAINT=str(CONSTRAINTS))


def say(text: str) -> None:
    print(f"[bundle] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = "{}.{}".format(*sys.version_info)
    parser.add_argument("--python", choices=PYTHONS, default=here, help="of the other machine")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder")
    arguments = parser.parse_args()
    try:
        make_bundle(arguments.python, arguments.output)
    except (BundleError, WheelError, install_detectron2.InstallError) as error:
        sys.exit(f"tools.bundle: {error}")


if __name__ == "__main__":
    main()
