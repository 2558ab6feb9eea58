"""Damaged annotations of other formats: a DataError, or a map of segments; never a traceback."""

import base64
import io
from pathlib import Path
from random import Random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from fuzz.fuzzing import mutated_bytes, mutated_document, run_cases, write_json
from segcore.data.convert import formats  # noqa: F401 registers them
from segcore.data.convert.formats import FORMATS
from segcore.data.convert.options import assign_splits, to_categories
from segcore.data.convert.painting import paint
from segcore.data.convert.source import Request
from segcore.data.panoptic_format import thing_category_ids
from segcore.errors import DataError

SIZE = (24, 32)


@pytest.fixture
def photo(tmp_path) -> Path:
    for folder in ("images", "JPEGImages"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", SIZE[::-1]).save(tmp_path / folder / "0.jpg")
    return tmp_path


def read(name: str, folder: Path, source: Path) -> None:
    """Read a source with everything in it, as the command does."""
    images = folder / ("JPEGImages" if name == "voc" else "images")
    classes = folder / "classes.txt" if name == "semantic" else None
    listed = FORMATS[name].read(Request([("", source)], images, classes))
    thing_ids = thing_category_ids(to_categories(listed.classes))
    for photos in assign_splits(listed.photos, []).values():
        for annotated in photos:
            for components in (False, True):
                paint(annotated.read(SIZE), SIZE, thing_ids, components=components)


def ring() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.abs(np.hypot(y - 12, x - 16) - 8) < 3


def test_damaged_coco(photo):
    rle = mask_util.encode(np.asfortranarray(ring(), np.uint8))
    segmentations = [
        [[1.5, 2, 20, 3, 11, 20], [22, 2, 30, 2, 30, 9]],
        {"size": list(SIZE), "counts": rle["counts"].decode()},
        {"size": list(SIZE), "counts": [100, 200, SIZE[0] * SIZE[1] - 300]},
    ]
    document = {
        "images": [{"id": 1, "file_name": "0.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 3, "iscrowd": n % 2, "segmentation": s}
            for n, s in enumerate(segmentations)
        ],
        "categories": [{"id": 3, "name": "cat", "isthing": 1, "color": [1, 2, 3]}],
    }
    path = photo / "coco.json"

    def make(random: Random) -> None:
        write_json(mutated_document(document, random), path)

    assert run_cases("COCO", make, lambda _: read("coco", photo, path), DataError) > 0


def test_damaged_run_lengths(photo):
    text = mask_util.encode(np.asfortranarray(ring(), np.uint8))["counts"]
    image = {"id": 1, "file_name": "0.jpg", "height": SIZE[0], "width": SIZE[1]}
    path = photo / "coco.json"

    def make(random: Random) -> None:
        counts = mutated_bytes(text, random).decode("latin-1")
        segmentation = {"size": list(SIZE), "counts": counts}
        annotation = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": segmentation}
        categories = [{"id": 3, "name": "cat"}]
        write_json({"images": [image], "annotations": [annotation], "categories": categories}, path)

    run_cases("run lengths", make, lambda _: read("coco", photo, path), DataError)


def test_damaged_labelme(photo):
    png = io.BytesIO()
    Image.fromarray(ring()[2:8, 3:12]).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    document = {
        "imagePath": "0.jpg",
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        "shapes": [
            {"label": "a", "points": [[1, 2], [20, 3], [9, 20.5]], "group_id": 1},
            {"label": "b", "shape_type": "rectangle", "points": [[1, 2], [20, 13]]},
            {"label": "b", "shape_type": "circle", "points": [[11, 12], [11, 15]]},
            {"label": "c", "shape_type": "mask", "points": [[3, 2], [11, 7]], "mask": mask},
        ],
    }
    path = photo / "0.json"

    def make(random: Random) -> None:
        write_json(mutated_document(document, random), path)

    assert run_cases("LabelMe", make, lambda _: read("labelme", photo, path), DataError) > 0


def test_damaged_yolo(photo):
    texts = {
        photo
        / "labels"
        / "0.txt": b"0 .1 .2 .8 .2 .5 .9\n1 0.5 0.5 0.25 0.25\n1 0 0 1 0 1 1 0 1\n",
        photo / "data.yaml": b"path: ../x\ntrain: images\nnames:\n  0: cat\n  1: dog\n",
    }
    (photo / "labels").mkdir()

    def make(random: Random) -> None:
        for path, text in texts.items():
            path.write_bytes(mutated_bytes(text, random) if random.random() < 0.6 else text)

    assert run_cases("YOLO", make, lambda _: read("yolo", photo, photo), DataError) > 0


def test_damaged_maps(photo):
    """Class lists and PNGs of VOC and of semantic maps."""
    classes = np.where(ring(), 1, 2).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(classes).save(content, "PNG")
    texts = {
        photo / "labelmap.txt": b"background:0,0,0::\ncat:128,0,0::\ndog:0,128,0:a,b:\n",
        photo / "classes.txt": b"sky\ncat\n\ndog\n",
        photo / "SegmentationClass" / "0.png": content.getvalue(),
        photo / "SegmentationObject" / "0.png": content.getvalue(),
    }

    def make(random: Random) -> str:
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(mutated_bytes(text, random) if random.random() < 0.4 else text)
        return random.choice(("voc", "semantic"))

    def use(name: str) -> None:
        read(name, photo, photo if name == "voc" else photo / "SegmentationClass")

    assert run_cases("maps", make, use, DataError) > 0
