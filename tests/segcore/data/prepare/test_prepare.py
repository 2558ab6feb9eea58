"""The command on tiny imitations of the official folders."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.cli.prepare import DATA_SETS, build_parser
from segcore.data.panoptic_format import read_panoptic_png
from segcore.data.prepare.plans import PLANS, unpack_pngs
from segcore.data.prepare.program import main
from segcore.errors import DataError

SIZE = (6, 8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def prepare(tmp_path, capsys):
    def prepare(*arguments: str) -> tuple[int, str]:
        command = [*arguments, "--root", str(tmp_path), "--splits", "val"]
        code = main(build_parser().parse_args(command))
        return code, capsys.readouterr().out

    return prepare


def test_coco(tmp_path, prepare):
    """The panoptic PNGs are a ZIP file within that of the annotations."""
    annotations = tmp_path / "coco" / "annotations"
    code, text = prepare("coco")
    assert code == 1
    assert text.count("missing") == 4 and "panoptic_annotations_trainval2017.zip" in text

    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    annotations.mkdir()
    ids = np.zeros(SIZE, dtype=np.uint32)
    ids[:2], ids[4:] = 5, 70_000
    write(tmp_path / "x.png", id2rgb(ids))
    with zipfile.ZipFile(annotations / "panoptic_val2017.zip", "w") as archive:
        archive.write(tmp_path / "x.png", "panoptic_val2017/000000000007.png")
        archive.writestr("__MACOSX/._000000000007.png", "")
    segments = [
        {"id": 5, "category_id": 1, "iscrowd": 0},
        {"id": 70_000, "category_id": 200, "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": 6, "width": 8}],
        "annotations": [
            {"image_id": 7, "file_name": "000000000007.png", "segments_info": segments}
        ],
        "categories": [{"id": 1, "name": "person", "isthing": 1}],
    }
    (annotations / "panoptic_val2017.json").write_text(json.dumps(content))
    (annotations / "instances_val2017.json").write_text("{}")
    code, text = prepare("coco", "--dry-run")
    assert "to make" in text and not (tmp_path / "coco" / "panoptic_val2017").exists()
    code, text = prepare("coco")
    assert (code, text.count("made ")) == (0, 2)
    made = tmp_path / "coco" / "panoptic_semseg_val2017" / "000000000007.png"
    expected = np.full(SIZE, 255)
    expected[:2], expected[4:] = 0, 132
    np.testing.assert_array_equal(np.asarray(Image.open(made)), expected)
    (annotations / "panoptic_val2017.zip").unlink()
    code, text = prepare("coco")
    assert (code, text.count("there ")) == (0, 2)


@pytest.fixture
def ade20k(tmp_path) -> Path:
    """A wall and the sky, which a bed covers altogether."""
    root = tmp_path / "ADEChallengeData2016"
    classes, instances = np.full(SIZE, 1, np.uint8), np.zeros((*SIZE, 3), np.uint8)
    classes[:2, :2] = 3
    instances[:3, :3] = 1, 1, 0
    write(root / "annotations" / "validation" / "x.png", classes)
    write(root / "annotations_instance" / "validation" / "x.png", instances)
    write(root / "images" / "validation" / "x.jpg", instances)
    return root


@pytest.mark.parametrize("official", [True, False])
def test_ade20k(ade20k, prepare, official):
    code, text = prepare("ade20k", *["--official"] * official)
    assert (code, text.count("made "), text.count("there ")) == (0, 3, 1)
    data = json.loads((ade20k / "ade20k_panoptic_val.json").read_text())
    ids = read_panoptic_png(ade20k / "ade20k_panoptic_val" / "x.png")
    segments = data["annotations"][0]["segments_info"]
    assert [(s["category_id"], s["area"]) for s in segments] == (
        [(0, 44), (2, 4), (7, 9)] if official else [(0, 39), (7, 9)]
    )
    assert len(np.unique(ids)) == 2
    assert (ade20k / "annotations_detectron2" / "validation" / "x.png").is_file()
    assert (ade20k / "ade20k_instance_val.json").is_file()


def test_ade20k_without_the_second_download(ade20k, prepare):
    (ade20k / "annotations_instance" / "validation" / "x.png").unlink()
    (ade20k / "annotations_instance" / "validation").rmdir()
    code, text = prepare("ade20k")
    assert (code, text.count("made "), text.count("cannot ")) == (1, 1, 3)
    assert "annotations_instance.tar" in text


def test_a_broken_file_is_named(ade20k, prepare):
    (ade20k / "annotations" / "validation" / "x.png").write_bytes(b"no PNG")
    code, text = prepare("ade20k")
    assert code == 1 and "x.png: cannot read the image" in text
    assert "made " in text  # the instances do not need it


def test_cityscapes(tmp_path, prepare):
    root, stem = tmp_path / "cityscapes", "a_000000_000000"
    (root / "leftImg8bit" / "val").mkdir(parents=True)
    for name, dtype in (("labelIds", np.uint8), ("instanceIds", np.uint16)):
        path = root / "gtFine" / "val" / "a" / f"{stem}_gtFine_{name}.png"
        write(path, np.full(SIZE, 7, dtype))
    code, text = prepare("cityscapes")
    assert (code, text.count("made ")) == (0, 1)
    assert (root / "gtFine" / "val" / "a" / f"{stem}_gtFine_labelTrainIds.png").is_file()
    assert (root / "gtFine" / "cityscapes_panoptic_val" / f"{stem}_gtFine_panoptic.png").is_file()


def test_mapillary(tmp_path, prepare):
    code, text = prepare("mapillary")
    assert (code, text.count("missing ")) == (1, 4)
    folder = tmp_path / "mapillary_vistas" / "validation"
    for name in ("images", "labels", "panoptic"):
        (folder / name).mkdir(parents=True)
    (folder / "panoptic" / "panoptic_2018.json").write_text("{}")
    assert prepare("mapillary") == (0, "")


def test_archives_that_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"no ZIP")
    with pytest.raises(DataError, match="not a ZIP file"):
        unpack_pngs(path, tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x.png", "1")
        archive.writestr("../../x.png", "2")
    with pytest.raises(DataError, match="of different names, got 2 of 1 names"):
        unpack_pngs(path, tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../x.png", "2")
    unpack_pngs(path, tmp_path / "out")
    assert {name.name for name in tmp_path.iterdir() if name.suffix != ".lock"} == {"a.zip", "out"}
    assert (tmp_path / "out" / "x.png").read_bytes() == b"2"


def test_the_command_offers_every_data_set():
    assert tuple(PLANS) == DATA_SETS
