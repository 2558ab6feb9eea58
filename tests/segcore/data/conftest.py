"""A tiny data set of COCO panoptic format, sound, to be spoilt by the tests."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.config import add_segcore_config

ROAD, CAR, PERSON, SKY = 7, 3, 11, 5
CATEGORIES = [
    {"id": ROAD, "name": "road", "isthing": 0, "color": [90, 90, 90]},
    {"id": CAR, "name": "car", "isthing": 1, "color": [0, 0, 200]},
    {"id": PERSON, "name": "person", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
]


class PanopticFolder:
    """Two photos, (24, 32) and (20, 30) pixels. The first has sky, road, two cars (id 70000 and
    2), a crowd of persons and an unlabeled corner; the second is all road and has another name
    than its PNG, in a subfolder."""

    def __init__(self, root: Path):
        self.images, self.json, self.pngs = root / "photos", root / "panoptic.json", root / "ids"
        first = np.zeros((24, 32), dtype=np.int32)
        first[:12], first[12:] = 9, 300
        first[10:16, 4:10] = 70000
        first[10:16, 8:14] = 2
        first[4:8, 20:30] = 16_000_000
        first[-3:, -3:] = 0
        self.ids = {"a.png": first, "b_ids.png": np.full((20, 30), 5, dtype=np.int32)}
        self.data = {
            "images": [
                {"id": 1, "file_name": "a.jpg", "height": 24, "width": 32},
                {"id": 2, "file_name": "more/b.png", "height": 20, "width": 30},
            ],
            "annotations": [
                {
                    "image_id": 1,
                    "file_name": "a.png",
                    "segments_info": [
                        {"id": 9, "category_id": SKY, "iscrowd": 0},
                        {"id": 300, "category_id": ROAD},
                        {"id": 70000, "category_id": CAR, "iscrowd": 0, "area": 24},
                        {"id": 2, "category_id": CAR, "iscrowd": 0, "area": 36},
                        {"id": 16_000_000, "category_id": PERSON, "iscrowd": 1},
                    ],
                },
                {
                    "image_id": 2,
                    "file_name": "b_ids.png",
                    "segments_info": [{"id": 5, "category_id": ROAD, "iscrowd": 0}],
                },
            ],
            "categories": [dict(category) for category in CATEGORIES],
        }
        self.pngs.mkdir(parents=True)
        (self.images / "more").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for photo in self.data["images"]:
            pixels = rng.integers(0, 256, (photo["height"], photo["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / photo["file_name"])
        self.write()

    @property
    def segments(self) -> list[dict]:
        """``segments_info`` of the first photo."""
        return self.data["annotations"][0]["segments_info"]

    def write(self) -> None:
        """Bring the files in line with ``data`` and ``ids``."""
        for name, ids in self.ids.items():
            Image.fromarray(id2rgb(ids)).save(self.pngs / name)
        self.json.write_text(json.dumps(self.data))

    def put_into(self, cfg: CfgNode, split: str) -> None:
        node = cfg.DATASETS.PANOPTIC[split]
        node.IMAGES, node.JSON, node.PNGS = str(self.images), str(self.json), str(self.pngs)


@pytest.fixture
def empty_catalogs(monkeypatch):
    """Hide the data sets that are registered."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


@pytest.fixture
def folder(tmp_path) -> PanopticFolder:
    return PanopticFolder(tmp_path / "data")


@pytest.fixture
def cfg(tmp_path) -> CfgNode:
    cfg = get_cfg()
    add_segcore_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg
