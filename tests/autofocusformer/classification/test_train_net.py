"""train_net.py on folders of images, from training to backbone weights."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from segcore.checkpoint import SafeCheckpointer, class_metadata, read_checkpoint
from segcore.config import get_cfg

pytest.importorskip("timm")

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "imagenet" / "classification" / "aff_mini.yaml"
COLOURS = {"blue": (0, 0, 220), "green": (0, 220, 0), "red": (220, 0, 0)}
SMALL = {
    "MODEL.AFF.EMBED_DIM": "[16, 16, 32, 32]",
    "MODEL.AFF.DEPTHS": "[1, 1, 1, 1]",
    "MODEL.AFF.NUM_HEADS": "[2, 2, 2, 2]",
    "MODEL.AFF.NBHD_SIZE": "[16, 16, 16, 16]",
}
# Without what makes learning slow: colors are all that tells the classes apart.
QUICK = {
    "INPUT.IMAGE_SIZE": 32,
    "INPUT.CLASSIFICATION.AUTO_AUGMENT": "",
    "INPUT.CLASSIFICATION.COLOR_JITTER": 0.1,
    "SOLVER.IMS_PER_BATCH": 6,
    "SOLVER.MAX_ITER": 30,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.CHECKPOINT_PERIOD": 1000,
    "TEST.EVAL_PERIOD": 0,
    "TEST.IMS_PER_BATCH": 4,
    "DATALOADER.NUM_WORKERS": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three classes of noisy images of one color; the options that name their folders."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for name, color in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(-30, 30, (40, 48, 3))
                pixels = np.clip(noise + color, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return {
        "DATASETS.IMAGE_FOLDER.TRAIN": root / "train",
        "DATASETS.IMAGE_FOLDER.TEST": root / "val",
    }


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a whole run."""
    output = tmp_path_factory.mktemp("trained")
    result = run(output, data)
    assert result.returncode == 0, result.stdout + result.stderr
    return output


def run(output: Path, options: dict, *flags: str) -> subprocess.CompletedProcess:
    options = {**SMALL, **QUICK, "OUTPUT_DIR": output, **options}
    pairs = [str(part) for option in options.items() for part in option]
    return subprocess.run(
        [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(CONFIG), *flags, *pairs],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def metrics(output: Path) -> dict:
    """The last value of everything in metrics.json."""
    lines = (output / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_training_learns_the_classes(trained: Path):
    numbers = metrics(trained)
    assert numbers["loss_cls"] < 0.9 < np.log(3)
    assert numbers["classification/top1"] > 90
    assert numbers["classification/top5"] == 100
    assert class_metadata(read_checkpoint(trained / "model_final.pth")).classes == sorted(COLOURS)


def test_eval_only_in_two_processes_with_mixing_on(data, trained: Path, tmp_path: Path):
    """Nine images, which two processes cannot share equally, in batches of four."""
    options = {**data, "MODEL.WEIGHTS": trained / "model_final.pth"}
    options["INPUT.CLASSIFICATION.MIXUP_ALPHA"] = 0.8
    result = run(tmp_path, options, "--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    numbers = metrics(trained)
    expected = f"{numbers['classification/top1']:.4f},{numbers['classification/top5']:.4f}"
    assert f"copypaste: {expected}" in result.stdout


def test_weights_become_a_backbone(trained: Path, tmp_path: Path):
    spec = importlib.util.spec_from_file_location("convert", ROOT / "tools/convert_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    weights = tmp_path / "backbone.pkl"
    tool.main([str(trained / "model_final.pth"), str(weights), "--backbone", "autofocusformer"])

    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/ade20k/semantic-segmentation/aff_mini_bs32_80k.yaml"))
    cfg.merge_from_list([part for option in SMALL.items() for part in option])
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(weights))
    report = checkpointer.report
    assert (report.left_over, report.renamed, report.other_shape) == ([], {}, {})
    fresh = [name for name in report.missing if name.startswith("backbone.")]
    assert fresh == [f"backbone.norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    saved = torch.load(trained / "model_final.pth", weights_only=True)["model"]
    for name, tensor in model.backbone.state_dict().items():
        if not name.startswith("norm"):
            assert torch.equal(tensor, saved[name]), name
