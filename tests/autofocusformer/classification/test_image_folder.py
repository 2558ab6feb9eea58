"""Image folders: registration, checks, the mapper for training and for tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from autofocusformer.classification.image_folder import DATASET_NAMES, setup_image_folders
from segcore.config import get_cfg
from segcore.data.custom_data import check_custom_data, setup_custom_data
from segcore.data.mappers import build_test_mapper, build_train_mapper
from segcore.engine import Trainer
from segcore.engine.randomness import seed_random_generators
from segcore.errors import ConfigError, DataError, ImageError

CLASSES = ["bird", "cat", "dog"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits of three classes, two images each: one of them in a folder further down."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            for path in ("a.JPEG", "deeper/b.png"):
                file = tmp_path / split / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
        (tmp_path / split / "cat" / "notes.txt").write_text("no image")
        (tmp_path / split / "README").write_text("no class")
    return tmp_path


@pytest.fixture
def cfg(root: Path):
    cfg = get_cfg()
    cfg.DATASETS.IMAGE_FOLDER.TRAIN = str(root / "train")
    cfg.DATASETS.IMAGE_FOLDER.TEST = str(root / "val")
    cfg.INPUT.DATASET_MAPPER_NAME = "image_classification"
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.IMAGE_SIZE = 14
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def test_classes_are_the_folders_in_sorted_order(cfg, root):
    setup_custom_data(cfg)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == tuple((n,) for n in DATASET_NAMES.values())
    assert cfg.MODEL.CLASSIFIER.NUM_CLASSES == 3
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.classes == CLASSES
    assert metadata.evaluator_type == "image_classification"
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert [record["class_id"] for record in records] == [0, 0, 1, 1, 2, 2]
    assert records[3]["file_name"] == str(root / "train" / "cat" / "deeper" / "b.png")


def test_nothing_is_done_without_folders():
    cfg = get_cfg()
    before = cfg.dump()
    setup_image_folders(cfg)
    assert cfg.dump() == before


def test_one_split_alone(cfg):
    cfg.DATASETS.IMAGE_FOLDER.TRAIN = ""
    setup_image_folders(cfg)
    assert cfg.DATASETS.TEST == (DATASET_NAMES["TEST"],)
    assert MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).classes == CLASSES
    cfg.DATASETS.IMAGE_FOLDER.TRAIN, cfg.DATASETS.IMAGE_FOLDER.TEST = (
        cfg.DATASETS.IMAGE_FOLDER.TEST,
        "",
    )
    setup_image_folders(cfg)
    assert cfg.DATASETS.TEST == ()


def test_absent_folder(cfg):
    cfg.DATASETS.IMAGE_FOLDER.TEST = "nowhere"
    with pytest.raises(DataError, match=r"nowhere: expected a folder with a sub-folder"):
        setup_image_folders(cfg)


def test_folder_without_classes(cfg, root):
    cfg.DATASETS.IMAGE_FOLDER.TRAIN = str(root / "train" / "cat" / "deeper")
    with pytest.raises(DataError, match=r"cat/deeper: expected a folder with a sub-folder"):
        setup_image_folders(cfg)


def test_class_without_images(cfg, root):
    for path in (root / "val" / "dog").rglob("*.*"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"IMAGE_FOLDER\.TEST: 1 class folder.*val/dog"):
        setup_image_folders(cfg)


def test_splits_of_different_classes(cfg, root):
    (root / "val" / "cat").rename(root / "val" / "cow")
    with pytest.raises(DataError, match=r"train has a folder 'cat' and .*val has not"):
        setup_image_folders(cfg)


def test_panoptic_data_as_well(cfg):
    cfg.DATASETS.PANOPTIC.TRAIN.JSON = "panoptic.json"
    with pytest.raises(ConfigError, match=r"IMAGE_FOLDER and DATASETS\.PANOPTIC are both set"):
        setup_custom_data(cfg)


def test_check_of_good_data(cfg):
    reports = check_custom_data(cfg)
    assert [report.ok for report in reports] == [True, True]
    assert "No problems found" in reports[0].summary()


def test_check_names_every_broken_image_and_empty_class(cfg, root):
    truncated, empty = root / "train" / "bird" / "a.JPEG", root / "train" / "cat" / "a.JPEG"
    truncated.write_bytes(truncated.read_bytes()[:300])
    empty.write_bytes(b"")
    (root / "train" / "fish").mkdir()
    train, test = check_custom_data(cfg)
    assert [problem.file for problem in train.problems] == [
        str(root / "train" / "fish"),
        str(truncated),
        str(empty),
    ]
    assert test.ok


def test_check_compares_the_classes(cfg, root):
    (root / "val" / "cat").rename(root / "val" / "cow")
    train, test = check_custom_data(cfg)
    assert train.ok
    assert "'cat'" in test.summary()


# Mappers


def test_training_mapper(cfg):
    pytest.importorskip("timm")
    setup_image_folders(cfg)
    record = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[4]
    mapper = build_train_mapper(cfg)
    samples = []
    for seed in (0, 0, 1):
        seed_random_generators(seed)
        samples.append(mapper(record))
    assert samples[0]["image"].shape == (3, 14, 14)
    assert samples[0]["image"].dtype == torch.uint8
    assert samples[0]["class_id"] == 2
    assert torch.equal(samples[0]["image"], samples[1]["image"])
    assert not torch.equal(samples[0]["image"], samples[2]["image"])
    assert "image" not in record


def test_training_mapper_without_augmentation_of_colors(cfg, tmp_path):
    """What is left, crop and flip, does not change an image of one color."""
    pytest.importorskip("timm")
    Image.new("RGB", (30, 20), (10, 90, 200)).save(tmp_path / "plain.png")
    cfg.INPUT.CLASSIFICATION.AUTO_AUGMENT = ""
    cfg.INPUT.CLASSIFICATION.COLOR_JITTER = 0.0
    record = {"file_name": str(tmp_path / "plain.png"), "class_id": 0}
    image = build_train_mapper(cfg)(record)["image"]
    assert torch.equal(
        image, torch.tensor([10, 90, 200], dtype=torch.uint8)[:, None, None] + 0 * image
    )


def test_test_mapper_crops_the_centre(cfg, tmp_path):
    """32 x 16 pixels, the short edge to 16: only the middle of the long edge is left."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 10:22] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    record = {"file_name": str(tmp_path / "image.png"), "class_id": 1}
    sample = build_test_mapper(cfg)(record)
    assert sample["image"].shape == (3, 14, 14)
    assert torch.equal(sample["image"][0, 0], torch.tensor([0] + [255] * 12 + [0]).byte())
    assert (sample["height"], sample["width"], sample["class_id"]) == (16, 32, 1)


def test_test_mapper_squeezes_the_whole(cfg, tmp_path):
    cfg.INPUT.CLASSIFICATION.CENTER_CROP_TEST = False
    pixels = np.zeros((14, 56, 3), np.uint8)
    pixels[:, 28:] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    image = build_test_mapper(cfg)({"file_name": str(tmp_path / "image.png"), "class_id": 1})[
        "image"
    ]
    assert image.shape == (3, 14, 14)
    assert image[:, :, :5].max() == 0
    assert image[:, :, 9:].min() == 255


def test_grey_and_transparent_images(cfg, tmp_path):
    for mode in ("L", "LA", "RGBA", "P", "1"):
        Image.new(mode, (20, 20)).save(tmp_path / "image.png")
        record = {"file_name": str(tmp_path / "image.png"), "class_id": 1}
        assert build_test_mapper(cfg)(record)["image"].shape == (3, 14, 14), mode


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_broken_image_is_named(cfg, tmp_path, suffix, share):
    file = tmp_path / f"broken{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=rf"broken\{suffix}: cannot read the image"):
        build_test_mapper(cfg)({"file_name": str(file), "class_id": 1})


def test_record_without_class(cfg):
    with pytest.raises(KeyError, match=r"needs class_id of photo\.jpg"):
        build_test_mapper(cfg)({"file_name": "photo.jpg"})


def test_other_color_order(cfg):
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT: expected 'RGB'.*'BGR'"):
        build_test_mapper(cfg)


def test_missing_timm_names_the_extra(cfg, monkeypatch):
    monkeypatch.setattr("segcore.requirements.find_spec", lambda name: None)
    build_test_mapper(cfg)  # needs none
    with pytest.raises(ImportError, match=r"panoptic-toolkit\[timm\]"):
        build_train_mapper(cfg)


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 6), (4, [4, 2])])
def test_batches_for_evaluation(cfg, batch, sizes):
    setup_image_folders(cfg)
    cfg.TEST.IMS_PER_BATCH = batch
    batches = list(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    assert [len(records) for records in batches] == sizes
    assert [record["class_id"] for records in batches for record in records] == [0, 0, 1, 1, 2, 2]
