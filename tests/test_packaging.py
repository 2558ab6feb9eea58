"""Package metadata, pinned versions, and what can be imported where something is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "projects"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Module -> distribution, where the names differ.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "cityscapesscripts": "cityscapesScripts"}
# Installed by segcore.install_detectron2, as no package metadata can name them, and what it needs;
# what Detectron2 requires itself; and Triton, which PyTorch's builds for CUDA bring.
OUTSIDE = {
    "triton",
    "pypi_simple",
    "detectron2",
    "panopticapi",
    "matplotlib",
    "termcolor",
    "yacs",
    "yaml",
}


def requirements(lines) -> dict[str, Requirement]:
    parsed = map(Requirement, lines)
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


RANGES = requirements(PROJECT["dependencies"])
EXTRAS = requirements(line for lines in PROJECT["optional-dependencies"].values() for line in lines)
PINS = requirements(
    line
    for line in (ROOT / "requirements-ci.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def imported_modules(package: Path) -> dict[str, Path]:
    """Top-level name of every absolute import -> one file that has it."""
    found = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            found.update((name.split(".")[0], path) for name in names)
    return found


@pytest.mark.parametrize("name", sorted(RANGES | EXTRAS))
def test_every_range_has_a_pin_inside_it(name):
    assert name in PINS, f"requirements-ci.txt has no version for {name}"
    (pin,) = PINS[name].specifier
    assert pin.operator == "=="
    assert pin.version in (RANGES | EXTRAS)[name].specifier


def test_every_imported_package_is_required():
    ours = {path.name for path in PACKAGES.iterdir() if path.is_dir()}
    known = sys.stdlib_module_names | ours | OUTSIDE
    for module, path in imported_modules(PACKAGES).items():
        if module not in known:
            name = canonicalize_name(DISTRIBUTIONS.get(module, module))
            assert name in RANGES | EXTRAS, f"{path} imports {module}, no requirement names it"


def test_requirements_are_ranges():
    for requirement in RANGES.values():
        assert requirement.url is None
        assert [part.operator for part in requirement.specifier] == [">="]


def test_wheel_serves_every_python_and_holds_packages_and_operators(tmp_path):
    """The library that is built already goes into the wheel: compiling it is no test's matter."""
    library = PACKAGES / "segcore" / "_C.abi3.so"
    if not library.is_file():
        pytest.skip("the operators are not compiled here: projects/segcore/_C.abi3.so is absent")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("projects", "csrc", "configs"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    built = tmp_path / "libraries" / "segcore"
    built.mkdir(parents=True)
    shutil.copy(library, built)
    (tmp_path / "setup.cfg").write_text("[build]\nbuild_lib = libraries\n")
    run = subprocess.run(
        [sys.executable, "setup.py", "build_py", "bdist_wheel", "--skip-build"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert re.fullmatch(r"panoptic_toolkit-[\d.]+-cp310-abi3-linux_\w+\.whl", wheel.name)
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {path.name for path in PACKAGES.iterdir() if (path / "__init__.py").is_file()}
    assert {f"{package}/__init__.py" for package in packages} <= names
    assert {"segcore/report/templates/page.js", "segcore/report/templates/page.css"} <= names
    assert "segcore/serve/templates/serve.html" in names
    assert {"segcore/_C.abi3.so", "segcore/data/datasets/categories/ade20k_150.json"} <= names
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"segcore/{path}" for path in configs} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == packages


def run_without(modules: set[str], script: str) -> subprocess.CompletedProcess:
    """Run ``script`` in a fresh Python in which ``modules`` seem not to be installed."""
    hide = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in {modules!r} else real(name, *a)
"""
    return subprocess.run([sys.executable, "-c", hide + script], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module", ["segcore", "segcore.ops", "segcore.evaluation.panoptic_quality"]
)
def test_import_with_nothing_but_torch(module):
    allowed = {"torch", "numpy", "typing_extensions", "segcore"} | sys.stdlib_module_names
    hidden = {*imported_modules(PACKAGES), "fvcore", "yacs"} - allowed
    answer = run_without(hidden, f"import {module}")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("module", ["segcore.config", "segcore.data"])
def test_missing_detectron2_says_what_to_run(module):
    answer = run_without({"detectron2"}, f"import {module}")
    assert "RequirementError: Detectron2 is not installed" in answer.stderr
    assert "python -m segcore.install_detectron2" in answer.stderr


@pytest.mark.parametrize("arguments", ["train", "predict photo.jpg --output results", "convert"])
def test_commands_say_what_to_run(arguments):
    script = f"from segcore.cli import run; sys.exit(run({arguments.split()}))"
    answer = run_without({"detectron2"}, script)
    assert answer.stderr.startswith("error: Detectron2 is not installed"), answer.stderr
    assert answer.returncode == 1


def test_missing_panopticapi_says_what_to_run():
    answer = run_without({"panopticapi"}, "import segcore.data.panoptic_format")
    assert "RequirementError: panopticapi is not installed" in answer.stderr
    assert "python -m segcore.install_detectron2" in answer.stderr


def test_opencv_is_needed_at_its_first_use_alone():
    script = """
import numpy as np
import segcore.visualization, segcore.data.mappers, segcore.engine, segcore.meta_arch
from segcore.config import load_projects
load_projects()
from segcore.visualization import sheet
sheet([[np.zeros((4, 4, 3), np.uint8)]], titles=["photo"])
"""
    answer = run_without({"cv2"}, script)
    assert "RequirementError: cv2.resize is needed here" in answer.stderr, answer.stderr
    assert "pip install opencv-python" in answer.stderr


def test_no_registry_host_is_named():
    host = re.compile(rb"pypi\.(org|python)|pythonhosted", re.IGNORECASE)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode != 0:
        pytest.skip("not a git checkout")
    for name in files.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            match = host.search(path.read_bytes())
            assert match is None, f"{name} names {match[0].decode()}"
