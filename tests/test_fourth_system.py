"""A system in a package of its own comes in by its entry point alone: train, predict, convert."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.checkpoint import read_checkpoint, write_checkpoint
from segcore.data import quickstart
from segcore.zoo import find_model, list_models, published_models

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).with_name("fourth_system")
NAME = next(FOLDER.glob("*.dist-info")).name.partition("-")[0]
# Several programs in one process: most of their time goes into imports.
RUN_ALL = """
import runpy, sys
for line in sys.stdin.read().splitlines():
    sys.argv = line.split("\\t")
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def run(*commands: list[object]) -> str:
    """Run programs with the package and its ``*.dist-info`` folder on the path; their output."""
    paths = [str(FOLDER), str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input="\n".join("\t".join(map(str, command)) for command in commands),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    quickstart.generate(root, num_train=4, num_val=2, size=(40, 56))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """Output folder of its quickstart config, with what the tools make."""
    output = tmp_path_factory.mktemp("trained")
    backbone = output / "backbone.pth"
    weight = torch.ones(8, 3, 4, 4)
    torch.save({"patches.weight": weight, "head.weight": weight}, output / "classifier.pth")
    options = ["OUTPUT_DIR", output]
    for split, folder in (("TRAIN", data / "train"), ("TEST", data / "val")):
        key = f"DATASETS.PANOPTIC.{split}"
        options += [f"{key}.IMAGES", folder / "images", f"{key}.JSON", folder / "panoptic.json"]
        options += [f"{key}.PNGS", folder / "panoptic"]
    config = FOLDER / NAME / "quickstart.yaml"
    printed = run(
        ["train_net.py", "--config-file", config, *options],
        ["tools/convert_checkpoint.py", output / "classifier.pth", backbone, "--backbone", NAME],
        ["tools/quickstart.py", "--help"],
    )
    (output / "printed.txt").write_text(printed)
    return output


def test_trains_and_evaluates(trained):
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    losses = [line["loss_mask"] for line in lines if "loss_mask" in line]
    assert losses and np.isfinite(losses).all()
    # Its switches choose the evaluators.
    results = {name.partition("/")[0] for line in lines for name in line if "/" in name}
    assert {"panoptic_seg", "sem_seg"} <= results and "segm" not in results


def test_predicts_from_a_checkpoint_with_published_names(trained, data, tmp_path):
    checkpoint = read_checkpoint(trained / "model_final.pth")
    checkpoint["model"] = {
        name.replace("head.", "decode_head."): value for name, value in checkpoint["model"].items()
    }
    write_checkpoint(checkpoint, tmp_path / "published.pth")
    photos = sorted((data / "val/images").iterdir())
    weights, output = tmp_path / "published.pth", tmp_path / "output"
    printed = run(["demo.py", *photos, "--weights", weights, "--output", output])
    assert "2 of 2 photos done" in printed
    for photo in photos:
        ids = np.asarray(Image.open(output / "panoptic" / f"{photo.stem}.png"))
        assert ids.shape == (40, 56, 3) and ids.any()


def test_tools_offer_its_quickstart_and_converter(trained):
    assert NAME in (trained / "printed.txt").read_text().partition("usage: quickstart.py")[2]
    assert list(read_checkpoint(trained / "backbone.pth")["model"]) == ["backbone.patches.weight"]


def test_published_weights(monkeypatch):
    """Its names and configurations, without an import of it."""
    monkeypatch.syspath_prepend(FOLDER)
    published_models.cache_clear()
    (name,) = list_models(f"{NAME}/*")
    assert find_model(name).config_file == FOLDER / NAME / "quickstart.yaml"
    assert NAME not in sys.modules
    published_models.cache_clear()


def test_only_its_package_names_it():
    tracked = subprocess.run(
        ["git", "grep", "-lIiF", "--untracked", NAME], cwd=ROOT, capture_output=True, text=True
    )
    files = tracked.stdout.splitlines()
    if not files:
        pytest.skip("needs the git repository")
    assert all(Path(ROOT, file).is_relative_to(FOLDER) for file in files), files
