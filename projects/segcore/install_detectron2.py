"""Install Detectron2 and panopticapi, which the package metadata cannot name, into this Python.

Detectron2 by the first way that works:

1. an importable Detectron2 is kept;
2. the official one, compiled from its GitHub repository at a pinned commit;
3. where GitHub cannot be reached, a wheel made of release v0.6's Python files, which the package
   index holds as a source distribution without the C++ sources. The edits that present versions
   of PyTorch, NumPy and Pillow ask for are the table ``EDITS``.

    python -m segcore.install_detectron2 [--source {auto,github,index}]

panopticapi as ``panopticapi-lite`` without its requirements, which admit no NumPy 2.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

GITHUB = "https://github.com/facebookresearch/detectron2"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main of June 2026
UNREACHABLE_AFTER = 20  # seconds

SDIST_PROJECT = "pb1-detectron2"
SDIST = "pb1-detectron2-0.6.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
WHEEL_SUFFIX = "+noext"  # makes it version 0.6+noext: release v0.6 without the C++ extension

PANOPTICAPI = "panopticapi-lite"
NEEDED = ("checkpoint", "config", "data", "engine", "evaluation", "modeling")


class InstallError(RuntimeError):
    """An error for the user to know or mend; shown without a traceback."""


class Edit(NamedTuple):
    """Replace ``old``, which must occur ``count`` times in ``file`` of the sdist, by ``new``."""

    file: str
    old: str
    new: str
    reason: str
    count: int = 1


NO_EXTENSION = "the C++ extension is not in the sdist: its operators raise when they are used"
NUMPY_ALIASES = "NumPy 1.24 removed its aliases of Python's types"
SCHEDULER_BASE = "PyTorch 2.0 renamed the base class; its own schedulers no longer pass as the old"
NOTHING_COMPILED = "nothing is compiled, so the build needs no PyTorch"
UNPINNED = "the pinned versions do not install beside present ones"

IMPORT_EXTENSION = "from detectron2 import _C\n"
IMPORT_STAND_IN = "from detectron2.utils.env import missing_extension as _C\n"
STAND_IN = '''TORCH_VERSION = tuple(int(x) for x in torch.__version__.split(".")[:2])


class _MissingExtension:
    """Stands where detectron2._C would be; whoever uses it learns that it is missing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name}: this installation of Detectron2 has no C++ extension. Install "
            "Detectron2 from its GitHub repository to use deformable convolution on a GPU, rotated "
            "boxes or the fast COCO evaluation."
        )


missing_extension = _MissingExtension()
'''

# fmt: off
EDITS = (
    # The C++ extension
    Edit("detectron2/utils/env.py",
         'TORCH_VERSION = tuple(int(x) for x in torch.__version__.split(".")[:2])\n', STAND_IN,
         NO_EXTENSION),
    Edit("detectron2/layers/deform_conv.py", IMPORT_EXTENSION, IMPORT_STAND_IN, NO_EXTENSION),
    Edit("detectron2/layers/rotated_boxes.py", IMPORT_EXTENSION, IMPORT_STAND_IN, NO_EXTENSION),
    Edit("detectron2/layers/roi_align_rotated.py", IMPORT_EXTENSION, IMPORT_STAND_IN, NO_EXTENSION),
    Edit("detectron2/evaluation/fast_eval_api.py", IMPORT_EXTENSION, IMPORT_STAND_IN, NO_EXTENSION),
    Edit("detectron2/layers/nms.py",
         "    return torch.ops.detectron2.nms_rotated(",
         "    from detectron2.utils.env import missing_extension\n\n"
         "    return missing_extension.nms_rotated(",
         NO_EXTENSION),
    Edit("detectron2/evaluation/coco_evaluation.py",
         "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
         "COCOeval_opt = COCOeval\n",
         "the fast evaluation is C++: evaluate with pycocotools"),
    Edit("detectron2/evaluation/coco_evaluation.py",
         "self._use_fast_impl = use_fast_impl\n",
         "self._use_fast_impl = False\n",
         "have the log name the implementation that is used"),
    # Caffe2, setuptools
    Edit("detectron2/export/__init__.py",
         "from .api import *\n",
         "from importlib.util import find_spec as _find_spec\n\n"
         'if _find_spec("caffe2") is not None:\n    from .api import *\n',
         "PyTorch no longer brings Caffe2"),
    Edit("detectron2/model_zoo/model_zoo.py",
         "import pkg_resources\n", "from importlib.resources import files\n",
         "setuptools removed pkg_resources"),
    Edit("detectron2/model_zoo/model_zoo.py",
         "cfg_file = pkg_resources.resource_filename(\n"
         '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n',
         'cfg_file = str(files("detectron2.model_zoo").joinpath("configs", config_path))\n',
         "setuptools removed pkg_resources"),
    # Python, Pillow
    Edit("detectron2/data/common.py",
         "self._rng.sample(self._fallback_candidates, k=1)",
         "self._rng.sample(list(self._fallback_candidates), k=1)",
         "Python 3.11 no longer samples from a set"),
    Edit("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR",
         "Pillow 10 removed the old name"),
    # NumPy
    Edit("detectron2/data/build.py", "dtype=np.int", "dtype=int", NUMPY_ALIASES, 2),
    Edit("detectron2/data/datasets/pascal_voc.py", "dtype=np.str", "dtype=str", NUMPY_ALIASES),
    Edit("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", NUMPY_ALIASES, 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", NUMPY_ALIASES, 2),
    Edit("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", NUMPY_ALIASES, 5),
    Edit("detectron2/structures/masks.py", "np.bool)", "bool)", NUMPY_ALIASES, 3),
    Edit("detectron2/utils/video_visualizer.py", "np.bool)", "bool)", NUMPY_ALIASES),
    Edit("detectron2/utils/visualizer.py", "np.bool)", "bool)", NUMPY_ALIASES, 3),
    # PyTorch
    Edit("detectron2/engine/hooks.py", "_LRScheduler", "LRScheduler", SCHEDULER_BASE, 2),
    Edit("detectron2/solver/build.py", "_LRScheduler", "LRScheduler", SCHEDULER_BASE),
    Edit("detectron2/solver/lr_scheduler.py", "_LRScheduler", "LRScheduler", SCHEDULER_BASE, 4),
    Edit("projects/DeepLab/deeplab/build_solver.py", "_LRScheduler", "LRScheduler", SCHEDULER_BASE),
    Edit("projects/DeepLab/deeplab/lr_scheduler.py", "_LRScheduler", "LRScheduler", SCHEDULER_BASE),
    # The package
    Edit("setup.py",
         "import torch\n"
         "from torch.utils.cpp_extension import CUDA_HOME, CppExtension, CUDAExtension\n\n"
         'torch_ver = [int(x) for x in torch.__version__.split(".")[:2]]\n'
         'assert torch_ver >= [1, 8], "Requires PyTorch >= 1.8"\n',
         "", NOTHING_COMPILED),
    Edit("setup.py",
         "    ext_modules=get_extensions(),\n"
         '    cmdclass={"build_ext": torch.utils.cpp_extension.BuildExtension},\n',
         "", NOTHING_COMPILED),
    Edit("setup.py", 'name="pb1-detectron2"', 'name="detectron2"',
         "the name by which other packages require it"),
    Edit("setup.py", 'exclude=("configs", "tests*")', 'exclude=("configs", "tests*", "tools")',
         "a top-level package called tools hides other people's"),
    Edit("setup.py",
         'package_data={"detectron2.model_zoo": get_model_zoo_configs()}',
         'package_data={"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}',
         "the sdist holds the model zoo's configs inside the package already"),
    Edit("setup.py", '"iopath>=0.1.7,<0.1.10"', '"iopath>=0.1.7"', UNPINNED),
    Edit("setup.py", '"black==21.4b2"', '"black"', UNPINNED),
    Edit("setup.py", '        "future",  # used by caffe2\n', "", "nothing but Caffe2 uses it"),
)
# fmt: on


def apply_edits(source: Path, edits: tuple[Edit, ...] = EDITS) -> None:
    """Apply ``edits`` to the unpacked sdist ``source``; one that does not match is an error."""
    for edit in edits:
        path = source / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        count = text.count(edit.old)
        if count != edit.count:
            raise InstallError(
                f"{edit.file}: expected {edit.count} time(s), found {count}: {edit.old!r} "
                f"(to be edited because: {edit.reason})"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def check_sha256(path: Path, expected: str = SDIST_SHA256) -> None:
    """Refuse the file unless its SHA-256 is the expected one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise InstallError(f"{path.name}: refused, its SHA-256 is {digest}, expected {expected}")


def download_sdist(folder: Path) -> Path:
    """Download the sdist into ``folder`` from the package index that pip's environment names."""
    if importlib.util.find_spec("pypi_simple") is None:
        pip("install", "--quiet", "pypi-simple", "tqdm")
    from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple, tqdm_progress_factory

    with PyPISimple(os.environ.get("PIP_INDEX_URL", PYPI_SIMPLE_ENDPOINT)) as index:
        packages = index.get_project_page(SDIST_PROJECT).packages
        package = next((p for p in packages if p.filename == SDIST), None)
        if package is None:
            raise InstallError(f"the package index does not list {SDIST}")
        index.download_package(package, folder / SDIST, progress=tqdm_progress_factory())
    check_sha256(folder / SDIST)
    return folder / SDIST


def build_wheel(sdist: Path, folder: Path) -> Path:
    """Unpack and edit ``sdist`` in ``folder`` and build a pure-Python wheel of it."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / SDIST.removesuffix(".tar.gz")
    apply_edits(source)
    say(f"Building a wheel of {SDIST} with {len(EDITS)} edits")
    pip("wheel", "--quiet", "--no-deps", "--use-pep517", "--wheel-dir", folder, source,
        D2_VERSION_SUFFIX=WHEEL_SUFFIX)  # fmt: skip
    return next(folder.glob("detectron2-*.whl"))


def install_from_index() -> None:
    """Install the wheel built from the package index's sdist, and what it requires."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(download_sdist(Path(folder)), Path(folder))
        say(f"Installing {wheel.name} and its requirements")
        # Replaces a broken installation of the same version, which pip would leave as it is.
        pip("install", "--no-deps", "--force-reinstall", wheel)
        pip("install", wheel)


def github_is_reachable() -> bool:
    """Return whether the official repository answers in time."""
    if shutil.which("git") is None:
        say("git is not installed, so GitHub cannot be asked")
        return False
    command = ["git", "ls-remote", "--quiet", GITHUB, "HEAD"]
    try:
        answer = subprocess.run(
            command,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=UNREACHABLE_AFTER,
        )
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


def install_from_github() -> None:
    """Compile and install the official Detectron2; takes minutes and needs a C++ compiler."""
    say(f"Compiling the official Detectron2 at commit {COMMIT[:12]}: some minutes")
    # Its own requirements have upper bounds, so constraints from outside could not be met.
    pip("install", "--no-build-isolation", f"detectron2 @ git+{GITHUB}@{COMMIT}",
        PIP_CONSTRAINT="", GIT_TERMINAL_PROMPT="0", GIT_HTTP_LOW_SPEED_LIMIT="1000",
        GIT_HTTP_LOW_SPEED_TIME=str(UNREACHABLE_AFTER))  # fmt: skip


def installed_version() -> str | None:
    """Return version and location of an importable Detectron2; else print why, return None."""
    script = (
        "import importlib, detectron2\n"
        f"for name in {NEEDED}: importlib.import_module('detectron2.' + name)\n"
        "print(detectron2.__version__, 'in', detectron2.__path__[0])"
    )
    check = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if check.returncode == 0:
        return check.stdout.strip().splitlines()[-1]
    say("No importable Detectron2: " + (check.stderr.strip().splitlines() or ["no message"])[-1])
    return None


def install(source: str = "auto") -> None:
    """Make Detectron2 importable, from ``source`` "github" or "index", or "auto": either."""
    if importlib.util.find_spec("torch") is None:
        raise InstallError("PyTorch is not installed in this Python: install it first")
    if version := installed_version():
        say(f"Detectron2 {version} is importable and kept")
        return
    if source == "github":
        install_from_github()
    elif source == "index":
        install_from_index()
    elif not github_is_reachable():
        say("GitHub cannot be reached: falling back to the package index")
        install_from_index()
    else:
        try:
            install_from_github()
        except InstallError as error:
            say(f"{error}: falling back to the package index")
            install_from_index()
    if not (version := installed_version()):
        raise InstallError("Detectron2 was installed and yet cannot be imported")
    say(f"Installed Detectron2 {version}")


def install_panopticapi() -> None:
    """Make panopticapi importable."""
    if importlib.util.find_spec("panopticapi") is not None:
        say("panopticapi is importable and kept")
        return
    pip("install", "--no-deps", PANOPTICAPI)


def pip(*arguments: str | Path, **environment: str) -> None:
    """Run this Python's pip."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    if subprocess.run(command, env={**os.environ, **environment}).returncode != 0:
        raise InstallError(f"pip {arguments[0]} failed")


def say(text: str) -> None:
    print(f"[detectron2] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m segcore.install_detectron2", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--source", choices=("auto", "github", "index"), default="auto")
    try:
        install(parser.parse_args().source)
        install_panopticapi()
    except InstallError as error:
        sys.exit(f"segcore.install_detectron2: {error}")


if __name__ == "__main__":
    main()
