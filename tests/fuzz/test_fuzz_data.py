"""Damaged panoptic data: a report of problems, or data that load; never a traceback."""

from random import Random

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from fuzz.fuzzing import mutated_bytes, mutated_document, run_cases, tree, write_json
from segcore.config import get_cfg
from segcore.data.check import check_panoptic_dataset
from segcore.data.custom_data import DATASET_NAMES, setup_custom_data
from segcore.errors import DataError

SIZE = (24, 32)


@pytest.fixture(autouse=True)
def no_data_sets_left():
    """Remove the data sets that cases register."""
    yield
    for name in DATASET_NAMES.values():
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


@pytest.fixture
def data(tmp_path) -> dict:
    """Two photos with three segments each, under ``tmp_path/data``; returns the JSON's content."""
    ids = np.zeros(SIZE, dtype=np.uint32)
    ids[:8], ids[8:16], ids[16:, :16] = 1, 700, 70_000
    for folder, suffix in (("photos", "jpg"), ("pngs", "png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.zeros((*SIZE, 3), np.uint8) if suffix == "jpg" else id2rgb(ids)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{number}.{suffix}")
    segments = [
        {"id": 1, "category_id": 1, "iscrowd": 0, "area": 256, "bbox": [0, 0, 32, 8]},
        {"id": 700, "category_id": 5, "iscrowd": 0, "area": 256, "bbox": [0, 8, 32, 8]},
        {"id": 70_000, "category_id": 5, "iscrowd": 0, "area": 128, "bbox": [0, 16, 16, 8]},
    ]
    height, width = SIZE
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "height": height, "width": width} for n in range(2)
        ],
        "annotations": [
            {"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in range(2)
        ],
        "categories": [
            {"id": 1, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
            {"id": 5, "name": "bird", "isthing": 1},
        ],
    }


def check(folder, output) -> None:
    """Check the data; what passes must load, with everything that training asks for."""
    paths = {"IMAGES": "photos", "JSON": "panoptic.json", "PNGS": "pngs"}
    sources = {key: str(folder / name) for key, name in paths.items()}
    report = check_panoptic_dataset(
        sources["IMAGES"], sources["JSON"], sources["PNGS"], evaluation=True, progress=False
    )
    text = report.summary()
    assert text.replace("\n", "").isprintable(), text
    if not report.ok:
        return
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(output)
    for split in ("TRAIN", "TEST"):
        for key, path in sources.items():
            cfg.DATASETS.PANOPTIC[split][key] = path
    setup_custom_data(cfg)


def test_damaged_annotations(data, tmp_path):
    folder, output = tmp_path / "data", tmp_path / "output"

    def make(random: Random):
        return mutated_document(data, random)

    def use(document) -> None:
        write_json(document, folder / "panoptic.json")
        check(folder, output)

    before = tree(folder) | {"panoptic.json"}
    run_cases("panoptic JSON", make, use, DataError)
    assert tree(folder) == before and {path.name for path in tmp_path.iterdir()} <= {
        "data",
        "output",
    }


def test_damaged_text_of_the_json(data, tmp_path):
    folder = tmp_path / "data"
    write_json(data, folder / "panoptic.json")
    sound = (folder / "panoptic.json").read_bytes()

    def use(content: bytes) -> None:
        (folder / "panoptic.json").write_bytes(content)
        check(folder, tmp_path / "output")

    run_cases("text of JSON", lambda random: mutated_bytes(sound, random), use, DataError)


def test_damaged_panoptic_png(data, tmp_path):
    folder = tmp_path / "data"
    write_json(data, folder / "panoptic.json")
    path = folder / "pngs" / "0.png"
    sound = path.read_bytes()

    def use(content: bytes) -> None:
        path.write_bytes(content)
        check(folder, tmp_path / "output")

    run_cases("panoptic PNG", lambda random: mutated_bytes(sound, random), use, DataError)
