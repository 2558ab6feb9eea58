"""Class names of a checkpoint, found again and put into a config."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog

import segcore.data.datasets  # noqa: F401 registers them
from segcore.checkpoint import (
    class_metadata,
    plain_metadata,
    read_checkpoint,
    use_class_metadata,
    write_checkpoint,
)
from segcore.checkpoint.metadata import checked_metadata
from segcore.config import get_cfg
from segcore.errors import CheckpointError

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


def doubled(levels=35):
    values = []
    for _ in range(levels):
        values = [values, values]
    return values


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thing_classes", doubled()),
        ("thing_classes", "ab"),
        ("thing_classes", {0: "a"}),
        ("thing_classes", [None]),
        ("stuff_classes", ["a" * 100_000]),
        ("stuff_classes", ["\ud800"]),
        ("stuff_classes", [""]),
        ("stuff_classes", ["a"] * 10_000),
        ("classes", [["a"]]),
        ("thing_colors", ["red"]),
        ("thing_colors", [[1, 2]]),
        ("stuff_colors", [[1, 2, 300]]),
        ("stuff_colors", [doubled()]),
        ("thing_dataset_id_to_contiguous_id", {1: [0]}),
        ("thing_dataset_id_to_contiguous_id", [1]),
        ("stuff_dataset_id_to_contiguous_id", {"a": 0}),
        ("stuff_dataset_id_to_contiguous_id", {1: 10**30}),
        ("stuff_dataset_id_to_contiguous_id", {1: 0, 2: 0}),
        ("stuff_dataset_id_to_contiguous_id", {1: 2}),
        ("ignore_label", float("nan")),
        ("label_divisor", 0),
    ],
)
def test_wrong_fields_are_refused_at_the_door(tmp_path, field, value):
    path = tmp_path / "m.pth"
    model = {"a": torch.ones(1)}
    torch.save({"model": model, "metadata": {**CLASSES, field: value}}, path)
    with pytest.raises(CheckpointError, match=rf"m\.pth: metadata: {field}: ") as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("stored", ["text", 5, [1], doubled()])
def test_metadata_of_another_type_are_refused(tmp_path, stored):
    torch.save({"model": {"a": torch.ones(1)}, "metadata": stored}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"m\.pth: metadata: expected a dictionary"):
        read_checkpoint(tmp_path / "m.pth")


def test_classes_of_all_data_sets_are_accepted():
    names = [name for name in MetadataCatalog.list() if "coco" in name or "ade20k" in name]
    assert names
    for name in names:
        stored = plain_metadata(MetadataCatalog.get(name))
        assert checked_metadata(stored, name) == stored
