"""Faults of test data are found before training."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from segcore.errors import DataError
from segcore.evaluation import check_evaluation

from .conftest import HEIGHT, WIDTH


@pytest.fixture
def cfg(dataset, config, tmp_path: Path):
    """Config of all tasks, on the data set with its photos."""
    for record in DatasetCatalog.get(dataset):
        record["file_name"] = str(tmp_path / record["file_name"])
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(record["file_name"])
    cfg = config("semantic", "instance", "panoptic")
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    cfg.INPUT.MIN_SIZE_TEST = 8
    return cfg


def test_sound_data(cfg, dataset):
    check_evaluation(cfg, dataset)


def edited(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "photo_1.jpg").unlink(), r"1 of 4 files .* missing, .*photo_1\.jpg"),
        (lambda f: (f / "photo_0.jpg").write_bytes(b"text"), r"photo_0\.jpg"),
        (lambda f: (f / "photo_1_panoptic.png").unlink(), r"1 of 2 files .*photo_1_panoptic\.png"),
        (lambda f: (f / "photo_0_semantic.png").unlink(), r"photo_0_semantic\.png"),
        (lambda f: (f / "panoptic.json").write_text("{"), r"panoptic\.json"),
        (lambda f: (f / "instances.json").write_text("{"), "evaluation_test_data is impossible"),
        (lambda f: edited(f / "panoptic.json", annotations=[]), r"panoptic\.json .*no annotations"),
        (lambda f: edited(f / "panoptic.json", categories=[]), "6 segments have a category_id"),
    ],
)
def test_fault_of_test_data(cfg, dataset, tmp_path: Path, spoil, message):
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        check_evaluation(cfg, dataset)


def test_annotated_image_that_the_data_set_lacks(cfg, dataset):
    DatasetCatalog.get(dataset).pop()
    with pytest.raises(DataError, match=r"1 annotated images are none of the data set .* first 2"):
        check_evaluation(cfg, dataset)


def test_empty_data_set(cfg, dataset):
    DatasetCatalog.get(dataset).clear()
    with pytest.raises(DataError, match="evaluation_test_data is empty"):
        check_evaluation(cfg, dataset)
