"""Files of Cityscapes that follow from gtFine, against the official scripts."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin import register_all_cityscapes_panoptic
from PIL import Image

from segcore.data.datasets import register_all
from segcore.data.datasets.cityscapes_files import make_panoptic, make_train_ids
from segcore.data.panoptic_format import read_panoptic_png
from segcore.errors import DataError

SIZE = (24, 40)
STEM = "aachen_000001_000019"


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    """Road, sky, two cars and a group of cars, a caravan (not evaluated), the ego vehicle."""
    ids = np.full(SIZE, 7, dtype=np.uint16)
    ids[:5], ids[20:] = 23, 1
    ids[8:12, :6], ids[8:12, 8:20], ids[14:16, :9], ids[14:18, 20:30] = 26000, 26001, 26, 29000
    root = tmp_path / "cityscapes"
    city = root / "gtFine" / "train" / "aachen"
    write(city / f"{STEM}_gtFine_instanceIds.png", ids)
    labels = np.where(ids >= 1000, ids // 1000, ids)
    write(city / f"{STEM}_gtFine_labelIds.png", labels.astype(np.uint8))
    photo = root / "leftImg8bit" / "train" / "aachen" / f"{STEM}_leftImg8bit.png"
    write(photo, np.zeros((*SIZE, 3), np.uint8))
    return root


def test_panoptic_against_the_official_script(cityscapes, tmp_path):
    reason = "cityscapesscripts is not installed"
    scripts = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs", reason=reason)
    scripts.convert2panoptic(str(cityscapes / "gtFine"), str(tmp_path), setNames=["train"])
    make_panoptic(cityscapes / "gtFine/train", tmp_path / "pngs", tmp_path / "ours.json")
    theirs = json.loads((tmp_path / "cityscapes_panoptic_train.json").read_text())
    ours = json.loads((tmp_path / "ours.json").read_text())
    for key in ("images", "annotations"):
        assert ours[key] == theirs[key]
    for category in theirs["categories"]:
        del category["supercategory"]
    assert ours["categories"] == theirs["categories"]
    name = f"{STEM}_gtFine_panoptic.png"
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "pngs" / name)),
        np.asarray(Image.open(tmp_path / "cityscapes_panoptic_train" / name)),
    )


def test_train_ids_against_the_official_table(cityscapes):
    reason = "cityscapesscripts is not installed"
    labels = pytest.importorskip("cityscapesscripts.helpers.labels", reason=reason)
    city = cityscapes / "gtFine/train/aachen"
    write(city / f"{STEM}_gtFine_labelIds.png", np.arange(34, dtype=np.uint8).reshape(2, 17))
    make_train_ids(cityscapes / "gtFine/train")
    made = np.asarray(Image.open(city / f"{STEM}_gtFine_labelTrainIds.png")).ravel().tolist()
    assert made == [labels.id2label[id_].trainId for id_ in range(34)]


def test_the_data_set_loads_from_its_downloads(cityscapes, empty_catalogs):
    register_all_cityscapes_panoptic(str(cityscapes.parent))
    register_all(str(cityscapes.parent))
    (record,) = DatasetCatalog.get("cityscapes_fine_panoptic_train")
    segments = [
        (segment["id"], segment["category_id"], segment["iscrowd"], segment["area"])
        for segment in record["segments_info"]
    ]
    road = 40 * 15 - 24 - 48 - 18 - 40
    assert segments == [
        (7, 0, 0, road),
        (23, 10, 0, 200),
        (26, 13, 1, 18),
        (26000, 13, 0, 24),
        (26001, 13, 0, 48),
    ]
    ids = read_panoptic_png(record["pan_seg_file_name"])
    assert set(np.unique(ids)) == {0, 7, 23, 26, 26000, 26001}
    semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert set(np.unique(semantic)) == {0, 10, 13, 255}
    assert len(DatasetCatalog.get("cityscapes_fine_panoptic_train")) == 1


def test_wrong_files(cityscapes, tmp_path):
    folder = cityscapes / "gtFine/train"
    for name in ("instanceIds", "labelIds"):
        write(folder / f"aachen/{STEM}_gtFine_{name}.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match="expected 8-bit class ids, got mode 'RGB'"):
        make_train_ids(folder)
    with pytest.raises(DataError, match="expected instance ids, got mode 'RGB'"):
        make_panoptic(folder, tmp_path / "pngs", tmp_path / "a.json")
    assert not (tmp_path / "pngs").exists()
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"pngs: does not exist, but .*a\.json does"):
        make_panoptic(folder, tmp_path / "pngs", tmp_path / "a.json")
