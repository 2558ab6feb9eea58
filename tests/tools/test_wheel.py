"""tools/wheel.py: what it needs, and the wheel in an environment without clone and compiler."""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from PIL import Image

from segcore.checkpoint import SafeCheckpointer, use_class_metadata
from segcore.config import load_config
from small_models import SMALL_MODELS
from tools import wheel as tool

CONFIG = "quickstart/mask2former_R18.yaml"
OPERATORS = """
import sys
sys.modules["detectron2"] = None  # not importable
import torch
from segcore import ops
from segcore.ops import _library

assert _library.is_compiled("knn", "cpu"), _library.why_not_compiled("knn", "cpu")
points = torch.rand(1, 20, 2)
assert torch.equal(ops.knn(points, points, 3), ops.knn_reference(points, points, 3))
print(ops.__file__)
"""


def test_libraries_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tool, "LIBRARIES", tmp_path)
    with pytest.raises(tool.WheelError, match="make install"):
        tool.compiled_libraries(cuda=False)
    (tmp_path / "_C.abi3.so").touch()
    assert tool.compiled_libraries(cuda=False) == [tmp_path / "_C.abi3.so"]
    with pytest.raises(tool.WheelError, match="make cuda"):
        tool.compiled_libraries(cuda=True)
    (tmp_path / "_C_cuda13.abi3.so").touch()
    assert tool.compiled_libraries(cuda=True)[1] == tmp_path / "_C_cuda13.abi3.so"


asked_for = pytest.mark.skipif(
    "SEGCORE_TEST_WHEEL" not in os.environ, reason="SEGCORE_TEST_WHEEL is not set"
)


@asked_for
def test_version_says_for_which_cuda(tmp_path: Path):
    library = tmp_path / "_C_cuda13.abi3.so"
    library.write_bytes((tool.LIBRARIES / tool.CPU).read_bytes())
    wheel = tool.build_wheel(tmp_path / "build", tmp_path / "dist", [library])
    assert "+cu13-cp310-abi3-" in wheel.name


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that has the wheel, and all but the clone of this Python."""
    if importlib.util.find_spec("auditwheel") is None:
        pytest.skip("auditwheel is not installed")
    wheel = tool.make_wheel(tmp_path_factory.mktemp("dist"), cuda=False)
    assert wheel.name.endswith(f"-cp310-abi3-{tool.PLATFORM}.whl")
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install"]
    subprocess.run([*command, "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # Python takes the folder, but not the .pth files in it, which lead to the clone.
    paths = {Path(module.__file__).parents[1] for module in (np, torch)}
    (site / "packages.pth").write_text("\n".join(map(str, paths)))
    return folder


def run(environment: Path, *command: str | Path) -> str:
    """Run a program of the environment without a compiler, and far from the clone."""
    work = environment / "work"
    work.mkdir(exist_ok=True)
    programs = str(environment / "bin")
    answer = subprocess.run(
        [f"{programs}/{command[0]}", *command[1:]],
        cwd=work,
        env={"PATH": programs, "HOME": str(work), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@asked_for
def test_operators_need_no_detectron2(environment: Path):
    assert Path(run(environment, "python", "-c", OPERATORS).strip()).is_relative_to(environment)


@asked_for
def test_predicts_with_a_configuration_of_the_wheel(environment: Path, tmp_path: Path):
    settings = {**SMALL_MODELS, "MODEL.DEVICE": "cpu"}
    options = [str(part) for option in settings.items() for part in option]
    classes = {"thing_classes": ["cat", "sky"], "thing_dataset_id_to_contiguous_id": {1: 0}}
    classes |= {
        "stuff_classes": ["cat", "sky"],
        "stuff_dataset_id_to_contiguous_id": {1: 0, 2: 1},
    }
    cfg = load_config(CONFIG, options)
    metadata = Metadata(name="of_the_wheel").set(**classes)
    use_class_metadata(cfg, metadata, "classes_of_the_wheel")
    torch.manual_seed(0)
    SafeCheckpointer(build_model(cfg), str(tmp_path), metadata=metadata).save("model")
    Image.new("RGB", (80, 60), (90, 120, 30)).save(tmp_path / "photo.png")
    arguments = [tmp_path / "photo.png", "--weights", tmp_path / "model.pth", "--config-file"]
    arguments += [CONFIG, "--output", tmp_path / "results", "--opts", *options]
    assert "1 of 1 photos done" in run(environment, "segcore", "predict", *arguments)
    assert (tmp_path / "results/overlay/photo.jpg").is_file()


@asked_for
def test_wheel_holds_no_leftovers(environment: Path):
    (info,) = environment.glob("lib/python*/site-packages/panoptic_toolkit-*.dist-info")
    record = (info / "RECORD").read_text()
    assert "segcore/configs/quickstart/mask2former_R18.yaml" in record
    assert not {"tests/", "tools/", "csrc/"} & {line.split("/")[0] + "/" for line in record.split()}
