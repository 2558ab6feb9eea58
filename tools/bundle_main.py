"""Unpack a bundle and run gpu-check: ``python3 panoptic-toolkit-cp312.pyz [FOLDER] [options]``.

Runs from inside of the zip that ``tools/bundle.py`` writes, with the standard library alone.
Packages that this Python has already are used as they are; options go to ``tools.gpu_check``.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

FOLDER = "panoptic-toolkit"
PROJECT = "panoptic-toolkit"
OLDEST_TORCH = (2, 10)


class BundleError(RuntimeError):
    """A reason why the bundle is of no use here; shown without a traceback."""


def check_machine(python: str) -> None:
    """Refuse a Python that the bundle is not for, or without PyTorch."""
    here = "{}.{}".format(*sys.version_info)
    if here != python:
        raise BundleError(f"this bundle is for Python {python}, this is {here}")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise BundleError(f"this bundle is for Linux on x86_64, this is {platform.platform()}")
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise BundleError(f"{sys.executable} has no PyTorch; 2.10 or newer is needed") from None
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise BundleError(f"PyTorch 2.10 or newer is needed, this is {version}")


def unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpack the files into a folder and the wheels that are needed into its ``site``.

    What an earlier bundle left there is replaced.
    """
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    for name in archive.namelist():
        path = PurePosixPath(name)
        if path.parts[0] == "files":
            target = folder.joinpath(*path.parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
        elif path.parts[0] == "wheels":
            distribution, version = path.name.split("-")[:2]
            found = None if normalized(distribution) == PROJECT else installed(distribution)
            print(f"  {distribution} {version}" + (f": {found} is here" if found else ""))
            if not found:
                with archive.open(name) as file, zipfile.ZipFile(file) as wheel:
                    unpack_wheel(wheel, site)


def unpack_wheel(wheel: zipfile.ZipFile, site: Path) -> None:
    """Unpack a wheel: all but its scripts is where it belongs, below ``purelib`` or not."""
    for name in wheel.namelist():
        parts = PurePosixPath(name).parts
        if parts[0].endswith(".data"):
            if parts[1] not in ("purelib", "platlib"):
                continue
            parts = parts[2:]
        if not name.endswith("/"):
            target = site.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(name))


def installed(distribution: str) -> str | None:
    """Return the version of a distribution that this Python has, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def main(arguments: list[str]) -> int:
    """Unpack this zip and run gpu-check; return its exit status."""
    folder = FOLDER
    if arguments and not arguments[0].startswith("-"):
        folder, *arguments = arguments
    path = Path(folder).resolve()
    with zipfile.ZipFile(sys.argv[0]) as archive:
        check_machine(archive.read("python.txt").decode())
        print(f"==> Unpacking into {path}", flush=True)
        unpack(archive, path)
    for module in ("numpy", "scipy", "PIL", "cv2"):
        if importlib.util.find_spec(module) is None:
            print(f"  {module} is not here: what needs it is left out", flush=True)
    paths = [str(path / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = ["-m", "tools.gpu_check", "--output", "docs/gpu.md", *arguments]
    print(f"==> In {path}: PYTHONPATH=site python3 {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, *command], cwd=path, env=environment).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BundleError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
