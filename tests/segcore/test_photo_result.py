"""Results of a photo: segments, instances, pictures, files, other libraries."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from segcore.errors import RequirementError
from segcore.photo_result import PhotoResult, save_results

CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 187, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
]
CAT, SKY = 5, 9  # ids in the panoptic map
PHOTO = np.full((40, 60, 3), 100, np.uint8)


def panoptic_map():
    ids = torch.zeros(40, 60, dtype=torch.int32)
    ids[5:20, 10:30] = CAT
    ids[30:] = SKY
    return ids


def panoptic():
    segments = [
        {"id": CAT, "isthing": True, "category_id": 0, "score": 0.75},
        {"id": SKY, "isthing": False, "category_id": 1},
    ]
    return {"panoptic_seg": (panoptic_map(), segments)}


def instances():
    mask = mask_util.encode(np.asfortranarray(panoptic_map() == CAT, np.uint8))
    found = Instances(
        (40, 60),
        pred_masks_rle=[mask, mask],
        pred_boxes=Boxes(torch.tensor([[10.0, 5, 30, 20]] * 2)),
        pred_classes=torch.tensor([0, 0]),
        scores=torch.tensor([0.875, 0.25]),
    )
    return {"instances": found}


def semantic():
    return {"semantic_map": torch.from_numpy((panoptic_map() == SKY).numpy().astype(np.uint8))}


def result(*parts, path=None):
    compact = {name: value for part in parts for name, value in part().items()}
    return PhotoResult(PHOTO, compact, CATEGORIES, path)


ALL = (panoptic, instances, semantic)


def test_arrays_and_segments():
    found = result(*ALL)
    assert found.panoptic.dtype == np.int32
    assert np.array_equal(found.panoptic, panoptic_map())
    assert np.array_equal(found.semantic, found.panoptic == SKY)
    cat, sky = found.segments
    assert (cat.id, cat.name, cat.category_id, cat.is_thing) == (CAT, "cat", 17, True)
    assert (cat.score, cat.area, cat.box) == (0.75, 300, (10, 5, 30, 20))
    assert (sky.name, sky.is_thing, sky.score, sky.area) == ("sky", False, None, 600)
    assert sky.box == (0, 30, 60, 40)


def test_instances_of_all_scores_with_masks():
    first, second = result(instances).instances
    assert (first.id, first.name, first.score, first.area) == (1, "cat", 0.875, 300)
    assert (second.id, second.score) == (2, 0.25)
    assert first.box == (10, 5, 30, 20)
    assert first.mask.dtype == bool
    assert np.array_equal(first.mask, panoptic_map() == CAT)


def test_what_the_model_does_not_give():
    found = result(semantic)
    assert found.panoptic is None
    assert found.segments == found.instances == found.to_coco() == []
    assert result(panoptic).semantic is None


@pytest.mark.parametrize("parts", [ALL, (panoptic,), (instances,), (semantic,)])
def test_pictures_and_tables(parts):
    found = result(*parts)
    overlay = found.overlay()
    assert (overlay.size, overlay.mode) == ((60, 40), "RGB")
    sky = np.asarray(overlay)[35, 30]
    assert (sky[2] > 150) == (parts != (instances,)), "the sky is blue where it is drawn"
    assert found.overlay(scale=0.5).size == (30, 20)
    assert found._repr_png_().startswith(b"\x89PNG")
    assert ("sky" if parts != (instances,) else "cat") in str(found)
    assert repr(found).startswith("PhotoResult(60 x 40 pixels, ")


def test_notebook_picture_of_a_large_photo_is_small():
    ids = torch.zeros(8, 4096, dtype=torch.int32)
    large = PhotoResult(np.zeros((8, 4096, 3), np.uint8), {"panoptic_seg": (ids, [])}, CATEGORIES)
    assert len(large._repr_png_()) < 20_000


def test_saved_alone_and_together(tmp_path):
    result(*ALL, path="photos/a.jpg").save(tmp_path / "one")
    assert (tmp_path / "one/overlay/a.jpg").is_file()
    assert (tmp_path / "one/panoptic/a.png").is_file()
    save_results([result(*ALL), result(*ALL)], tmp_path / "two", min_score=0.1)
    images = json.loads((tmp_path / "two/panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["photo", "photo"]
    assert len(json.loads((tmp_path / "two/instances.json").read_text())) == 4
    save_results([], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_coco_records():
    (record,) = result(instances).to_coco(image_id=7)
    assert (record["image_id"], record["category_id"], record["score"]) == (7, 17, 0.875)
    assert record["bbox"] == [10, 5, 20, 15]
    assert np.array_equal(mask_util.decode(record["segmentation"]), panoptic_map() == CAT)
    assert len(result(instances).to_coco(min_score=0)) == 2


@pytest.mark.parametrize(("parts", "score"), [((instances,), 0.875), ((panoptic,), 0.75)])
def test_supervision(parts, score):
    pytest.importorskip("supervision", reason="supervision, an extra, is not installed")
    detections = result(*parts).to_supervision()
    assert detections.xyxy.tolist() == [[10, 5, 30, 20]]
    assert np.array_equal(detections.mask[0], panoptic_map() == CAT)
    assert detections.confidence.tolist() == [score]
    assert detections.class_id.tolist() == [0]
    assert detections.data["class_name"].tolist() == ["cat"]
    assert len(result(semantic).to_supervision()) == 0


def test_supervision_is_not_installed(monkeypatch):
    monkeypatch.setattr("segcore.requirements.find_spec", lambda name: None)
    with pytest.raises(RequirementError, match="pip install supervision"):
        result(instances).to_supervision()
