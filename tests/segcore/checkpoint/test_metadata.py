"""Class names of a checkpoint, found again and put into a config."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog

from segcore.checkpoint import (
    class_metadata,
    plain_metadata,
    read_checkpoint,
    use_class_metadata,
    write_checkpoint,
)
from segcore.config import get_cfg

CLASSES = {
    "thing_classes": ["cat", "sky"],
    "stuff_classes": ["cat", "sky"],
    "thing_dataset_id_to_contiguous_id": {17: 0},
    "stuff_dataset_id_to_contiguous_id": {17: 0, 187: 1},
}


def test_plain_data_without_paths():
    metadata = Metadata(name="x").set(
        thing_colors=[np.array([1, 2, 3])], json_file="a.json", ignore_label=np.int64(255)
    )
    assert plain_metadata(metadata) == {"thing_colors": [[1, 2, 3]], "ignore_label": 255}


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_of_a_file(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    write_checkpoint({"model": {"a": torch.ones(1)}, "metadata": CLASSES}, path)
    assert plain_metadata(class_metadata(read_checkpoint(path))) == CLASSES


@pytest.mark.parametrize("stored", [None, {}, {"unknown": 1}])
def test_file_without_classes(tmp_path, stored):
    path = tmp_path / "m.pth"
    write_checkpoint({"model": {"a": torch.ones(1)}, "metadata": stored}, path)
    assert class_metadata(read_checkpoint(path)) is None


def test_config_takes_the_classes():
    cfg = get_cfg()
    metadata = class_metadata({"metadata": CLASSES})
    for _ in range(2):  # a second time replaces the first
        use_class_metadata(cfg, metadata, "test_checkpoint_classes")
    assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == ("test_checkpoint_classes",)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert plain_metadata(MetadataCatalog.get("test_checkpoint_classes")) == CLASSES
    MetadataCatalog.remove("test_checkpoint_classes")


def test_a_class_count_that_fits_stays():
    """Cityscapes names 8 things and 19 classes; an instance model has 8."""
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    classes = {"thing_classes": ["t"] * 8, "stuff_classes": ["s"] * 19}
    use_class_metadata(cfg, class_metadata({"metadata": classes}), "test_checkpoint_classes")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 8
    MetadataCatalog.remove("test_checkpoint_classes")
