"""Files that follow from the downloads of ADE20K and COCO, against the official scripts."""

from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from panopticapi.utils import id2rgb
from PIL import Image

from parity.golden import Case, Comparison, parametrize_cases
from segcore.data.datasets.ade20k_files import (
    make_instances_json,
    make_panoptic,
    make_semantic_maps,
)
from segcore.data.derived import derive_semantic_maps
from segcore.data.json_file import read_json
from segcore.data.panoptic_format import contiguous_ids, read_panoptic_png


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def compare(comparison: Comparison, case: Case, name: str, path: Path) -> None:
    comparison.equal(name, np.asarray(Image.open(path)), case.arrays[name])


@parametrize_cases("mask2former_more", "prepare_ade20k")
def test_ade20k(case: Case, tmp_path: Path, comparison: Comparison):
    images, semantic, instances = (tmp_path / name for name in ("images", "semantic", "instances"))
    for index, name in enumerate(case.info["image_ids"]):
        classes = case.arrays[f"in_semantic_{index}"]
        write(images, f"{name}.jpg", np.zeros((*classes.shape, 3), np.uint8))
        write(semantic, f"{name}.png", classes)
        write(instances, f"{name}.png", case.arrays[f"in_instance_{index}"])
    make_semantic_maps(semantic, tmp_path / "maps")
    for index, name in enumerate(case.info["image_ids"]):
        compare(comparison, case, f"out_semantic_{index}", tmp_path / "maps" / f"{name}.png")

    make_instances_json(images, instances, tmp_path / "instances.json")
    made, official = read_json(tmp_path / "instances.json"), case.info["ade20k_instance_val.json"]
    assert made["images"] == official["images"]
    assert made["annotations"] == official["annotations"]
    # Names of classes are those of the list of 150.
    assert [category["id"] for category in made["categories"]] == official["category_ids"]

    make_panoptic(images, semantic, instances, tmp_path / "pngs", tmp_path / "panoptic.json")
    made, official = read_json(tmp_path / "panoptic.json"), case.info["ade20k_panoptic_val.json"]
    assert made["images"] == official["images"]
    assert made["categories"][:8] == official["categories_first_eight"]
    for index, (ours, theirs) in enumerate(
        zip(made["annotations"], official["annotations"], strict=True)
    ):
        segments = list(zip(ours["segments_info"], theirs["segments_info"], strict=True))
        assert [{**s, "id": 0} for s, _ in segments] == [{**s, "id": 0} for _, s in segments]
        # The ids of second and further things of a class are drawn in the original.
        theirs_of = {s["id"]: t["id"] for s, t in segments}
        ids = read_panoptic_png(tmp_path / "pngs" / ours["file_name"])
        renamed = np.vectorize({0: 0, **theirs_of}.get)(ids)
        name = f"out_panoptic_ids_{index}"
        comparison.equal(name, renamed, case.arrays[name])
        first = {s["category_id"]: i for i, (s, _) in reversed(list(enumerate(segments)))}
        assert all(segments[i][0]["id"] == segments[i][1]["id"] for i in first.values())
    comparison.check()


@parametrize_cases("mask2former_more", "prepare_coco_semantic")
def test_coco_semantic_maps(case: Case, tmp_path: Path, comparison: Comparison):
    assert [category["id"] for category in COCO_CATEGORIES] == case.info["category_order"]
    annotations = []
    for index, segments in enumerate(case.info["segments_info"]):
        name = f"{index}.png"
        write(tmp_path / "pngs", name, id2rgb(case.arrays[f"ids_{index}"]))
        annotations.append({"image_id": index, "file_name": name, "segments_info": segments})
    data = {"images": [], "annotations": annotations, "categories": []}
    contiguous = contiguous_ids(COCO_CATEGORIES)
    derive_semantic_maps(data, tmp_path / "pngs", contiguous, tmp_path / "maps")
    for index in range(len(annotations)):
        compare(comparison, case, f"semantic_{index}", tmp_path / "maps" / f"{index}.png")
    comparison.check()
