"""Files that the demo writes."""

import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.demo import results as results_module
from segcore.demo.output import check_output, has_results
from segcore.demo.results import ResultWriter
from segcore.errors import ConfigError, OutputError
from segcore.inference import QueryAttention

CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 187, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
]
PHOTO = np.full((40, 60, 3), 100, np.uint8)


def panoptic():
    ids = torch.zeros(40, 60, dtype=torch.int32)
    ids[5:20, 10:30] = 1
    ids[30:] = 2
    segments = [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": False, "category_id": 1},
    ]
    return ids, segments


def instances():
    mask = mask_util.encode(np.asfortranarray(panoptic()[0] == 1, np.uint8))
    return Instances(
        (40, 60),
        pred_masks_rle=[mask, mask],
        pred_boxes=Boxes(torch.tensor([[10.0, 5, 30, 20]] * 2)),
        pred_classes=torch.tensor([0, 0]),
        scores=torch.tensor([0.9, 0.3]),
    )


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_panoptic_and_instances(tmp_path):
    writer = ResultWriter(tmp_path, CATEGORIES, score_threshold=0.5)
    result = {"panoptic_seg": panoptic(), "instances": instances()}
    rows = writer.add(Path("photos/a.jpg"), PHOTO, result)
    writer.finish()
    assert [row.name for row in rows] == ["sky", "cat"]
    assert files(tmp_path) == [
        "instances.json",
        "overlay/a.jpg",
        "panoptic.json",
        "panoptic/a.png",
    ]
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "panoptic/a.png"), panoptic()[0])
    data = read_panoptic_json(tmp_path / "panoptic.json")
    assert data["images"] == [{"id": 1, "file_name": "photos/a.jpg", "height": 40, "width": 60}]
    assert data["categories"] == CATEGORIES
    assert data["annotations"] == [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [
                {"id": 1, "category_id": 17, "iscrowd": 0, "area": 300, "bbox": [10, 5, 20, 15]},
                {"id": 2, "category_id": 187, "iscrowd": 0, "area": 600, "bbox": [0, 30, 60, 10]},
            ],
        }
    ]
    (record,) = json.loads((tmp_path / "instances.json").read_text())
    assert (record["image_id"], record["category_id"]) == (1, 17)
    assert record["bbox"] == [10, 5, 20, 15]
    np.testing.assert_array_equal(mask_util.decode(record["segmentation"]), panoptic()[0] == 1)


def test_panoptic_quality_against_itself(tmp_path):
    """The files are what the COCO evaluator reads."""
    from panopticapi.evaluation import pq_compute

    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    writer.add(Path("a.jpg"), PHOTO, {"panoptic_seg": panoptic()})
    writer.finish()
    path = str(tmp_path / "panoptic.json")
    result = pq_compute(path, path, str(tmp_path / "panoptic"), str(tmp_path / "panoptic"))
    assert result["All"]["pq"] == 1


def test_instances_alone(tmp_path):
    writer = ResultWriter(tmp_path, CATEGORIES, 0.2)
    rows = writer.add(Path("a.jpg"), PHOTO, {"instances": instances()})
    writer.finish()
    assert [round(row.score, 2) for row in rows] == [0.9, 0.3]
    assert files(tmp_path) == ["instances.json", "overlay/a.jpg"]


def test_semantic_alone(tmp_path):
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:10] = 1
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    rows = writer.add(Path("a.jpg"), PHOTO, {"semantic_map": labels})
    writer.finish()
    assert [(row.name, row.area) for row in rows] == [("cat", 0.75), ("sky", 0.25)]
    assert files(tmp_path) == ["overlay/a.jpg", "semantic/a.png"]
    np.testing.assert_array_equal(Image.open(tmp_path / "semantic/a.png"), labels)


def test_focus_and_attention_if_told(tmp_path):
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    query = QueryAttention(0, 1, 0.7, [torch.rand(5, 8)], torch.rand(5, 8))
    focus = [(torch.tensor([[20.0, 10.0]]), None)]
    for name, shown in (("a", {}), ("b", {"focus": focus}), ("c", {"attention": [query]})):
        writer.add(Path(f"{name}.jpg"), PHOTO, {"panoptic_seg": panoptic()}, **shown)
    pictures = [name for name in files(tmp_path) if name.startswith(("attention", "focus"))]
    assert pictures == ["attention/c.png", "focus/b.png"]


def test_nothing_found(tmp_path):
    result = {"panoptic_seg": (torch.zeros(40, 60, dtype=torch.int32), [])}
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    assert writer.add(Path("a.jpg"), PHOTO, result) == []
    writer.finish()
    assert read_panoptic_json(tmp_path / "panoptic.json")["annotations"][0]["segments_info"] == []


def test_photos_of_one_name_do_not_overwrite_each_other(tmp_path):
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    for name in ("x/a.jpg", "x/a_2.jpg", "y/a.jpg", "y/a.png"):
        writer.add(Path(name), PHOTO, {"panoptic_seg": panoptic()})
    assert [path.name for path in sorted((tmp_path / "panoptic").iterdir())] == [
        "a.png",
        "a_2.png",
        "a_3.png",
        "a_4.png",
    ]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("n" * 251 + ".jpg", "n" * 240),
        ("ä" * 125 + ".png", "ä" * 120),
        ("a\x1b[31mb\n.jpg", "a_[31mb_"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf_"),
    ],
)
def test_names_that_cannot_be_those_of_results(tmp_path, name, stem):
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    for folder in ("x", "y"):
        writer.add(Path(folder, name), PHOTO, {"panoptic_seg": panoptic()})
    writer.finish()
    assert files(tmp_path / "overlay") == sorted([f"{stem}.jpg", f"{stem}_2.jpg"])
    data = read_panoptic_json(tmp_path / "panoptic.json")
    for annotation in data["annotations"]:
        assert (tmp_path / "panoptic" / annotation["file_name"]).exists()
    name = data["images"][0]["file_name"]
    assert name == f"x/{stem[:-1]}\\xe9.jpg" if "caf" in stem else name.startswith("x/")


def test_nothing_remains_of_a_photo_that_fails(tmp_path, monkeypatch):
    (tmp_path / "overlay").write_text("in the way")
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    with pytest.raises(OutputError, match=r"overlay/a\.jpg: cannot be written"):
        writer.add(Path("a.jpg"), PHOTO, {"panoptic_seg": panoptic()})
    writer.finish()
    assert files(tmp_path) == ["overlay"]
    (tmp_path / "overlay").unlink()
    writer.add(Path("a.png"), PHOTO, {"panoptic_seg": panoptic()})
    writer.finish()
    assert files(tmp_path) == ["overlay/a.jpg", "panoptic.json", "panoptic/a.png"]
    assert len(read_panoptic_json(tmp_path / "panoptic.json")["images"]) == 1


def test_json_is_written_between_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(results_module, "SAVE_SHARE", 1e9)
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    for number in (1, 2, 3):
        writer.add(Path(f"{number}.jpg"), PHOTO, {"panoptic_seg": panoptic()})
        assert len(read_panoptic_json(tmp_path / "panoptic.json")["images"]) == number


def test_json_of_an_earlier_run_does_not_stay(tmp_path):
    (tmp_path / "instances.json").write_text("[1]")
    (tmp_path / "panoptic.json").write_text("{}")
    ResultWriter(tmp_path, CATEGORIES, 0.5).finish()
    assert (tmp_path / "instances.json").read_text() == "[1]"  # nothing was done
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    writer.add(Path("a.jpg"), PHOTO, {"panoptic_seg": panoptic()})
    writer.finish()
    assert files(tmp_path) == ["overlay/a.jpg", "panoptic.json", "panoptic/a.png"]


def test_ids_beyond_a_byte(tmp_path):
    ids = panoptic()[0] * 70_000
    segments = [{**segment, "id": segment["id"] * 70_000} for segment in panoptic()[1]]
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    writer.add(Path("a.jpg"), PHOTO, {"panoptic_seg": (ids, segments)})
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "panoptic/a.png"), ids)


def test_pictures_too_long_for_jpeg(tmp_path):
    photo = np.zeros((1, 65_536, 3), np.uint8)
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    writer.add(Path("a.jpg"), photo, {"semantic_map": torch.zeros(1, 65_536, dtype=torch.uint8)})
    assert files(tmp_path) == ["overlay/a.png", "semantic/a.png"]


class TestCheckOutput:
    def test_free_or_used_folder(self, tmp_path):
        check_output(tmp_path / "new/folder", [Path("a.jpg")])
        (tmp_path / "overlay").mkdir()
        check_output(tmp_path, [tmp_path / "a.jpg"])

    @pytest.mark.parametrize("output", ["file", "file/inside"])
    def test_a_file_in_its_way(self, tmp_path, output):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"--output .*file: expected a folder|is none"):
            check_output(tmp_path / output, [])

    def test_a_link_to_nothing(self, tmp_path):
        (tmp_path / "out").symlink_to(tmp_path / "gone")
        with pytest.raises(OutputError, match="expected a folder"):
            check_output(tmp_path / "out", [])

    def test_other_things_of_the_names_of_results(self, tmp_path):
        (tmp_path / "panoptic.json").mkdir()
        with pytest.raises(OutputError, match=r"expected that panoptic\.json is a file"):
            check_output(tmp_path, [])
        (tmp_path / "overlay").write_text("")
        with pytest.raises(OutputError, match="expected that overlay is a folder"):
            check_output(tmp_path, [])

    def test_photos_that_results_would_replace(self, tmp_path):
        (tmp_path / "overlay").mkdir()
        with pytest.raises(ConfigError, match=r"could replace the photo .*a\.jpg"):
            check_output(tmp_path, [tmp_path / "x/../overlay/a.jpg"])


def test_results_of_an_earlier_run(tmp_path):
    assert not has_results(tmp_path / "new")
    (tmp_path / "notes.txt").touch()
    assert not has_results(tmp_path)
    (tmp_path / "overlay").mkdir()
    assert has_results(tmp_path)
