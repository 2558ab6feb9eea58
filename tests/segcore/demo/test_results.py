"""Files that the demo writes."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.demo import ResultWriter
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
    masks = torch.stack([panoptic()[0] == 1] * 2).float()
    return Instances(
        (40, 60),
        pred_masks=masks,
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
    scores = torch.zeros(2, 40, 60)
    scores[1, :10] = 1
    writer = ResultWriter(tmp_path, CATEGORIES, 0.5)
    rows = writer.add(Path("a.jpg"), PHOTO, {"sem_seg": scores})
    writer.finish()
    assert [(row.name, row.area) for row in rows] == [("cat", 0.75), ("sky", 0.25)]
    assert files(tmp_path) == ["overlay/a.jpg", "semantic/a.png"]
    labels = np.asarray(Image.open(tmp_path / "semantic/a.png"))
    np.testing.assert_array_equal(labels, scores.argmax(0))


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
