"""A data set of two images in which the contiguous ids of the things have a gap."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.config import get_cfg

HEIGHT, WIDTH = 12, 16
DATASET = "evaluation_test_data"
CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 7, "name": "grass", "isthing": 0},
    {"id": 11, "name": "dog", "isthing": 1},
]
CONTIGUOUS = {category["id"]: index for index, category in enumerate(CATEGORIES)}
SEMANTIC_IGNORE = 255


def truth(number: int) -> tuple[np.ndarray, list[dict]]:
    """Segment ids (H, W), 0 = unlabelled, and the segments, of image 0 or 1."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[2:6, 3:9] = 2
    ids[7:11, 10 + number : 15] = 3
    ids[0, 0] = 0
    segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, 7), (2, 3), (3, 11))]
    return ids, segments


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    """Name of the registered data set; images have ids 1 and 2."""
    register(tmp_path, CATEGORIES)
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def register(folder: Path, categories: list[dict]) -> None:
    known = {category["id"] for category in categories}
    images, panoptic, instances, records = [], [], [], []
    for number in range(2):
        ids, segments = truth(number)
        name, image_id = f"photo_{number}", number + 1
        segments = [segment for segment in segments if segment["category_id"] in known]
        semantic = np.full(ids.shape, SEMANTIC_IGNORE, np.uint8)
        for segment in segments:
            mask = ids == segment["id"]
            semantic[mask] = CONTIGUOUS[segment["category_id"]]
            segment["area"] = int(mask.sum())
            if segment["category_id"] != 7:
                rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
                instances.append(
                    {
                        "id": len(instances) + 1,
                        "image_id": image_id,
                        "category_id": segment["category_id"],
                        "iscrowd": 0,
                        "area": segment["area"],
                        "bbox": mask_util.toBbox(rle).tolist(),
                        "segmentation": {**rle, "counts": rle["counts"].decode()},
                    }
                )
        ids[~np.isin(ids, [segment["id"] for segment in segments])] = 0
        Image.fromarray(id2rgb(ids)).save(folder / f"{name}_panoptic.png")
        Image.fromarray(semantic).save(folder / f"{name}_semantic.png")
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": image_id, "file_name": f"{name}.jpg", **size})
        panoptic.append(
            {
                "image_id": image_id,
                "file_name": f"{name}_panoptic.png",
                "segments_info": segments,
            }
        )
        records.append(
            {
                "file_name": f"{name}.jpg",
                "image_id": image_id,
                "sem_seg_file_name": str(folder / f"{name}_semantic.png"),
                **size,
            }
        )
    common = {"info": {}, "images": images, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps({**common, "annotations": panoptic}))
    (folder / "instances.json").write_text(json.dumps({**common, "annotations": instances}))

    names = [category["name"] for category in categories]
    DatasetCatalog.register(DATASET, lambda: records)
    MetadataCatalog.get(DATASET).set(
        evaluator_type="coco_panoptic_seg",
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={
            c["id"]: CONTIGUOUS[c["id"]] for c in categories if c["isthing"]
        },
        stuff_dataset_id_to_contiguous_id={c["id"]: CONTIGUOUS[c["id"]] for c in categories},
        ignore_label=SEMANTIC_IGNORE,
        label_divisor=1000,
        panoptic_json=str(folder / "panoptic.json"),
        panoptic_root=str(folder),
        json_file=str(folder / "instances.json"),
        sem_seg_root=str(folder),
    )


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Any]:
    """A config by the tasks that are on."""

    def make(*tasks: str):
        cfg = get_cfg()
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        cfg.TEST.REPORT = False
        cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
        for task in ("SEMANTIC", "INSTANCE", "PANOPTIC"):
            cfg.MODEL.MASK_FORMER.TEST[f"{task}_ON"] = task.lower() in tasks
        return cfg

    return make


def perfect_output(number: int) -> dict[str, Any]:
    """Return the results of a perfect model on image 0 or 1."""
    ids, segments = truth(number)
    things = [s for s in segments if s["category_id"] != 7]
    semantic = torch.zeros(len(CATEGORIES), HEIGHT, WIDTH)
    for segment in segments:
        semantic[CONTIGUOUS[segment["category_id"]], torch.from_numpy(ids == segment["id"])] = 1
    return {
        "sem_seg": semantic,
        "panoptic_seg": (
            torch.from_numpy(ids.astype(np.int32)),
            [
                {
                    "id": s["id"],
                    "isthing": s["category_id"] != 7,
                    "category_id": CONTIGUOUS[s["category_id"]],
                }
                for s in segments
            ],
        ),
        "instances": instances_of([ids == s["id"] for s in things], things),
    }


def empty_output(number: int) -> dict[str, Any]:
    """Return the results of a model that finds nothing."""
    return {
        "sem_seg": torch.zeros(len(CATEGORIES), HEIGHT, WIDTH),
        "panoptic_seg": (torch.zeros(HEIGHT, WIDTH, dtype=torch.int32), []),
        "instances": instances_of([], []),
    }


def instances_of(masks: list[np.ndarray], segments: list[dict]) -> Instances:
    masks = torch.from_numpy(np.array(masks, bool).reshape(-1, HEIGHT, WIDTH))
    corners = []
    for mask in masks:
        rows, columns = torch.nonzero(mask, as_tuple=True)
        corners.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return Instances(
        (HEIGHT, WIDTH),
        scores=torch.ones(len(masks)),
        pred_classes=torch.tensor([CONTIGUOUS[s["category_id"]] for s in segments]).long(),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor(corners).float().reshape(-1, 4)),
    )


def evaluate(evaluator, output_of: Callable[[int], dict]) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for number, record in enumerate(DatasetCatalog.get(DATASET)):
        evaluator.process([record], [output_of(number)])
    return evaluator.evaluate()
