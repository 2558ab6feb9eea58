"""Files of ADE20K that follow from its download, in the published layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin import register_all_ade20k
from PIL import Image

import segcore.data.datasets  # noqa: F401 registers them
from segcore.config import get_cfg
from segcore.data.datasets import register_all, require_training_files
from segcore.data.datasets.ade20k_files import make_panoptic
from segcore.data.datasets.categories import load_categories
from segcore.data.panoptic_format import read_panoptic_png
from segcore.errors import DataError
from segcore.evaluation import build_evaluator, check_evaluation

WALL, SKY, BED = 0, 2, 7  # of the 150 classes
FIRST_THING = 1  # of the 100, which is the bed


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class Download:
    """A photo of 6 x 8 pixels: sky over a wall, a row without label, and two beds on both."""

    def __init__(self, folder: Path, split: str = "training"):
        self.folder, self.split = folder / "ADEChallengeData2016", split
        self.classes = np.full((6, 8), SKY + 1, dtype=np.uint8)
        self.classes[3:5] = WALL + 1
        self.classes[5] = 0
        self.instances = np.zeros((6, 8, 3), dtype=np.uint8)
        self.instances[2:4, 1:3] = FIRST_THING, 1, 0
        self.instances[3:5, 4:7] = FIRST_THING, 4, 0
        self.classes[self.instances[:, :, 1] > 0] = BED + 1
        self.write()

    def write(self) -> None:
        write(self.path("images", "x_1.jpg"), np.zeros((6, 8, 3), dtype=np.uint8))
        write(self.path("annotations", "x_1.png"), self.classes)
        write(self.path("annotations_instance", "x_1.png"), self.instances)

    def path(self, folder: str, name: str) -> Path:
        return self.folder / folder / self.split / name


@pytest.fixture
def download(tmp_path, empty_catalogs) -> Download:
    register_all_ade20k(str(tmp_path))
    register_all(str(tmp_path))
    return Download(tmp_path)


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["ade20k_sem_seg_train", "ade20k_panoptic_train"])
def test_semantic_maps_are_made(download, name):
    (record,) = DatasetCatalog.get(name)
    made = download.path("annotations_detectron2", "x_1.png")
    assert Path(record["sem_seg_file_name"]) == made
    expected = download.classes.astype(int) - 1
    expected[expected < 0] = 255
    np.testing.assert_array_equal(pixels(made), expected)
    write(made, np.full((6, 8), 9, dtype=np.uint8))
    DatasetCatalog.get(name)
    assert (pixels(made) == 9).all()  # what is there stays


def test_panoptic_files_are_made(download):
    (record,) = DatasetCatalog.get("ade20k_panoptic_train")
    assert record["image_id"] == "x_1" and (record["height"], record["width"]) == (6, 8)
    ids = read_panoptic_png(record["pan_seg_file_name"])
    segments = {segment["id"]: segment for segment in record["segments_info"]}
    assert set(np.unique(ids)) == {0, *segments}
    assert [segment["category_id"] for segment in segments.values()] == [WALL, SKY, BED, BED]
    assert [segment["isthing"] for segment in segments.values()] == [False, False, True, True]
    assert [segment["area"] for segment in segments.values()] == [8, 22, 4, 6]
    assert list(segments.values())[2]["bbox"] == [1, 2, 2, 2]
    for number, (id_, _) in zip((1, 4), list(segments.items())[2:], strict=True):
        np.testing.assert_array_equal(ids == id_, download.instances[:, :, 1] == number)
    assert (ids[5] == 0).all()


def test_instance_annotation_is_made(download):
    (record,) = DatasetCatalog.get("ade20k_instance_train")
    assert [annotation["category_id"] for annotation in record["annotations"]] == [0, 0]
    assert [annotation["bbox"] for annotation in record["annotations"]] == [
        [1, 2, 2, 2],
        [4, 3, 3, 2],
    ]
    content = json.loads((download.folder / "ade20k_instance_train.json").read_text())
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2]
    assert len(content["categories"]) == 100


def test_evaluation_has_what_it_needs(tmp_path, download):
    """The check before training, with the ground truth of instances."""
    Download(tmp_path, "validation")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    test = cfg.MODEL.MASK_FORMER.TEST
    test.SEMANTIC_ON = test.INSTANCE_ON = test.PANOPTIC_ON = True
    cfg.INPUT.MIN_SIZE_TEST = 8
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    check_evaluation(cfg, "ade20k_panoptic_val")
    assert (download.folder / "ade20k_instance_val.json").is_file()
    assert build_evaluator(cfg, "ade20k_panoptic_val")


def test_training_on_a_plain_download(download):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("ade20k_panoptic_train", "ade20k_sem_seg_train", "ade20k_instance_train")
    require_training_files(cfg)


def two_classes(download):
    download.instances[2, 1, 0] = FIRST_THING + 1


def unknown_class(download):
    download.instances[2:4, 1:3, 0] = 101


def other_size(download):
    download.instances = download.instances[:5]


def grey(download):
    download.instances = download.instances[:, :, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (two_classes, r"annotations_instance/.*x_1\.png: instance 1 has two classes"),
        (unknown_class, r"x_1\.png: instance 1 has the class 101"),
        (other_size, r"x_1\.png: is 8 x 5, but its photo x_1\.jpg 8 x 6"),
        (grey, r"x_1\.png: expected an RGB image"),
    ],
)
@pytest.mark.parametrize("name", ["ade20k_panoptic_train", "ade20k_instance_train"])
def test_faulty_annotation_is_named_and_leaves_nothing(download, name, spoil, message):
    spoil(download)
    download.write()
    with pytest.raises(DataError, match=message):
        DatasetCatalog.get(name)
    assert not (download.folder / "ade20k_panoptic_train").exists()
    assert not list(download.folder.rglob("*.json")) + list(download.folder.rglob("*.partial"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.zeros((6, 8), np.uint16), "expected 8-bit class ids"),
        (np.full((6, 8), 151, np.uint8), "expected classes from 0 to 150, got 151"),
    ],
)
@pytest.mark.parametrize("name", ["ade20k_sem_seg_train", "ade20k_panoptic_train"])
def test_faulty_semantic_map_is_named(download, name, classes, message):
    download.classes = classes
    download.write()
    with pytest.raises(DataError, match=rf"annotations/.*x_1\.png: {message}"):
        DatasetCatalog.get(name)
    assert not download.path("annotations_detectron2", "").exists()


def test_half_of_the_panoptic_files_is_refused(download):
    """Ids of things are free, so that a JSON fits only the PNGs that were made with it."""
    DatasetCatalog.get("ade20k_panoptic_train")
    (download.folder / "ade20k_panoptic_train.json").unlink()
    with pytest.raises(DataError, match=r"panoptic_train\.json: does not exist.*remove"):
        DatasetCatalog.get("ade20k_panoptic_train")


def test_many_things_of_a_class_have_distinct_ids(download):
    download.instances[:] = 0
    download.instances[:, :, 1] = np.arange(48).reshape(6, 8)
    download.instances[:, :, 0] = FIRST_THING
    download.instances[0, 0] = 0
    download.write()
    (record,) = DatasetCatalog.get("ade20k_panoptic_train")
    things = [segment["id"] for segment in record["segments_info"] if segment["isthing"]]
    assert len(set(things)) == 47
    colors = {tuple(category["color"]) for category in load_categories("ade20k_150")}
    ids = {red + 256 * green + 65536 * blue for red, green, blue in colors}
    assert len(ids & set(things)) == 1  # the first has the color of the class


def test_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"images: expected files \*\.jpg, got none"):
        make_panoptic(*(tmp_path / n for n in ("images", "a", "i", "pngs", "pngs.json")))
    assert not (tmp_path / "pngs").exists()
