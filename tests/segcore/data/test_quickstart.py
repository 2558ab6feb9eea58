import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from segcore.data.check import check_panoptic_dataset
from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.data.quickstart import CATEGORIES, SMALLEST_SEGMENT, draw, generate
from segcore.errors import DataError

SMALL = {"num_train": 6, "num_val": 3, "size": (48, 64)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "quickstart", **SMALL)


def files_of(root) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 3)])
def test_data_pass_the_check(root, split, count):
    folder = root / split
    report = check_panoptic_dataset(
        folder / "images", folder / "panoptic.json", folder / "panoptic", evaluation=True
    )
    assert report.problems == []
    assert (report.num_photos, report.num_annotations) == (count, count)


def test_segments_agree_with_their_png(root):
    data = read_panoptic_json(root / "train" / "panoptic.json")
    for annotation in data["annotations"]:
        ids = read_panoptic_png(root / "train" / "panoptic" / annotation["file_name"])
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows) >= SMALLEST_SEGMENT
            left, top, width, height = segment["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


def test_seed_decides_the_files(root, tmp_path):
    again = generate(tmp_path / "again", **SMALL)
    assert files_of(again) == files_of(root)
    other = generate(tmp_path / "other", seed=1, **SMALL)
    assert files_of(other)["train/panoptic.json"] != files_of(root)["train/panoptic.json"]


def test_splits_and_pictures_differ(root):
    pictures = [path.read_bytes() for path in root.glob("*/images/*.jpg")]
    assert len(set(pictures)) == len(pictures) == 9


def test_every_class_occurs():
    drawn = [draw(np.random.default_rng(seed), (96, 128)) for seed in range(20)]
    seen = {segment["category_id"] for *_, segments in drawn for segment in segments}
    assert seen == {category["id"] for category in CATEGORIES}


def test_things_overlap_and_some_are_small():
    drawn = [draw(np.random.default_rng(seed), (128, 160)) for seed in range(30)]
    areas = [
        segment["area"]
        for *_, segments in drawn
        for segment in segments
        if CATEGORIES[segment["category_id"] - 1]["isthing"]
    ]
    assert min(areas) < 100 < 1500 < max(areas)


def test_odd_size():
    picture, ids, segments = draw(np.random.default_rng(0), (37, 61))
    assert picture.shape == (37, 61, 3) and picture.dtype == np.uint8
    assert ids.shape == (37, 61)
    assert segments


def test_existing_data_are_kept(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert generate(root, **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_parameters_draw_anew(tmp_path):
    root = generate(tmp_path / "data", **SMALL)
    generate(root, **{**SMALL, "num_train": 2, "size": (32, 40)})
    assert len(list((root / "train" / "images").iterdir())) == 2
    with Image.open(root / "val" / "images" / "00000.jpg") as image:
        assert image.size == (40, 32)


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="another origin"):
        generate(tmp_path, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("segcore.data.quickstart.id2rgb", lambda ids: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path):
    root = tmp_path / "data"
    command = [sys.executable, "-m", "segcore.data.quickstart", "--root", str(root)]
    subprocess.run([*command, "--num-train", "1", "--num-val", "1"], check=True)
    data = json.loads((root / "val" / "panoptic.json").read_text())
    assert (data["images"][0]["height"], data["images"][0]["width"]) == (128, 160)
