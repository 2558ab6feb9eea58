"""Real photos from end to end: two of COCO val2017 as custom data, through train_net.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "coco_sample"
CONFIGS = ROOT / "configs"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} is absent")

# The whole run is in docs/custom_data.md with its result; this is its beginning.
SHORT_RUN = 160
PQ_OF_SHORT_RUN = 30.0


def train(config: str, output: Path, *options: object) -> dict[str, float]:
    """Results of a run on both photos, which are the test set as well."""
    files = {
        "IMAGES": PHOTOS / "input_images",
        "JSON": PHOTOS / "panoptic_examples.json",
        "PNGS": PHOTOS / "panoptic_examples",
    }
    data = [
        part
        for split in ("TRAIN", "TEST")
        for key, path in files.items()
        for part in (f"DATASETS.PANOPTIC.{split}.{key}", path)
    ]
    command = [sys.executable, ROOT / "train_net.py", "--config-file", CONFIGS / config]
    result = subprocess.run(
        [*map(str, [*command, *data, "OUTPUT_DIR", output, *options])],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, log
    # The last lines give each task's names and values for copying.
    lines = re.findall(r"copypaste: (\S+)$", log, re.MULTILINE)
    return {
        name: float(value)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names.split(","), values.split(","), strict=True)
    }


def test_small_model_learns_two_photos(tmp_path: Path):
    options = ("SOLVER.MAX_ITER", SHORT_RUN, "SOLVER.STEPS", "(130,)", "SEED", 1)
    results = train("quickstart/mask2former_R18_few_photos.yaml", tmp_path, *options)
    assert results["PQ"] >= PQ_OF_SHORT_RUN


def test_published_model_trains_and_is_evaluated(tmp_path: Path):
    config = "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    options = ("MODEL.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 2)
    small = ("DATALOADER.NUM_WORKERS", 0, "INPUT.IMAGE_SIZE", 512)
    results = train(config, tmp_path, *options, *small)
    assert {"PQ", "SQ", "RQ", "AP", "mIoU"} <= set(results)
    assert (tmp_path / "model_final.pth").is_file()
