"""Files of ADE20K that follow from its download, with the content of the official ones.

The annotation of a photo is two PNGs: ``annotations`` holds classes of the SceneParsing benchmark
(0 is unlabeled, then 1 to 150), ``annotations_instance`` in red classes of its instance benchmark
(1 to 100) and in green the number of the instance in the photo, from 1.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from panopticapi.utils import id2rgb, rgb2id
from tqdm import tqdm

from segcore.data.datasets.categories import load_categories
from segcore.data.derived import FAST_COMPRESSION, locked
from segcore.data.images import encode_image, open_image, read_ids, stored_size
from segcore.data.panoptic_format import (
    MAX_SEGMENT_ID,
    Segment,
    bounding_boxes,
    count_pixels,
    locate_segments,
    num_workers,
    thing_category_ids,
    to_instances,
)
from segcore.errors import DataError
from segcore.files import atomic_folder, write_json
from segcore.text import printable

NUM_CLASSES = 150
MAX_INSTANCES = 255  # of a photo, in 8 bits

Result = TypeVar("Result")


def make_semantic_maps(annotations: Path, target: Path) -> None:
    """Make the folder of semantic maps: contiguous class ids, 255 where unlabeled.

    Raises:
        DataError: a file is no PNG of classes.
        OutputError: the folder cannot be written.
    """
    paths = _files(annotations, "*.png")
    with locked(target):
        if target.exists():
            return
        with atomic_folder(target) as unfinished:

            def convert(path: Path) -> None:
                content = _png(read_classes(path) - np.uint8(1))  # 0 becomes 255
                (unfinished / path.name).write_bytes(content)

            _for_each(convert, paths, target)


def make_instances_json(images: Path, annotations: Path, target: Path) -> None:
    """Make the JSON of instances in COCO's format; ids of images are the stems of their names.

    Args:
        annotations: folder ``annotations_instance``.

    Raises:
        DataError: a PNG is missing or faulty.
        OutputError: the JSON cannot be written.
    """
    categories = load_categories("ade20k_150")
    thing_ids = thing_category_ids(categories)

    def convert(photo: Path) -> tuple[dict, list[dict]]:
        record = photo_record(photo)
        path = annotations / f"{photo.stem}.png"
        numbers, classes = read_instances(path, record)
        segments = [{"id": number, "category_id": classes[number]} for number in sorted(classes)]
        instances = to_instances(locate_segments(numbers, segments), segments, thing_ids)
        return record, [{**instance, "image_id": record["id"]} for instance in instances]

    with locked(target):
        if target.exists():
            return
        results = _for_each(convert, _files(images, "*.jpg"), target)
        instances = [instance for _, annotated in results for instance in annotated]
        content = {
            "images": [record for record, _ in results],
            "annotations": [
                {**instance, "id": number} for number, instance in enumerate(instances, start=1)
            ],
            "categories": [
                {"id": category["id"], "name": category["name"]}
                for category in categories
                if category["isthing"]
            ],
        }
        write_json(content, target)


def make_panoptic(
    images: Path, annotations: Path, instance_annotations: Path, pngs: Path, target: Path
) -> None:
    """Make panoptic PNGs and their JSON: stuff of the one annotation, things of the other over it.

    Areas and boxes are those before things cover stuff, and stuff that is covered altogether stays
    listed, as in the official files, by which published figures were measured.

    Raises:
        DataError: a PNG is missing or faulty, or the folder ``pngs`` is there without its JSON.
        OutputError: the folder or the JSON cannot be written.
    """
    categories = load_categories("ade20k_150")

    def convert(photo: Path) -> tuple[dict, dict]:
        record, name = photo_record(photo), f"{photo.stem}.png"
        semantic = read_classes(annotations / name, record)
        numbers, classes = read_instances(instance_annotations / name, record)
        ids, segments = paste(semantic, numbers, classes, categories)
        (unfinished / name).write_bytes(_png(id2rgb(ids)))
        annotation = {"image_id": record["id"], "file_name": name, "segments_info": segments}
        return record, annotation

    with locked(pngs):
        if pngs.exists() and target.exists():
            return
        if pngs.exists() or target.exists():
            present, absent = (pngs, target) if pngs.exists() else (target, pngs)
            raise DataError(
                f"{absent}: does not exist, but {present} does, and one is made with the other: "
                f"remove {present} to have both made"
            )
        with atomic_folder(pngs) as unfinished:
            results = _for_each(convert, _files(images, "*.jpg"), pngs)
        content = {
            "images": [record for record, _ in results],
            "annotations": [annotation for _, annotation in results],
            "categories": categories,
        }
        write_json(content, target)


def photo_record(photo: Path) -> dict:
    """Return the record of a photo in a JSON of COCO's format."""
    with open_image(photo) as image:
        width, height = stored_size(image)
    return {"id": photo.stem, "file_name": photo.name, "width": width, "height": height}


def read_classes(path: Path, record: dict | None = None) -> np.ndarray:
    """Read a PNG of ``annotations``: (H, W) uint8.

    Args:
        record: of the photo, whose size it must have.
    """
    pixels, mode = read_ids(path)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise DataError(f"{printable(path)}: expected 8-bit class ids, got mode {mode!r}")
    if pixels.max() > NUM_CLASSES:
        raise DataError(
            f"{printable(path)}: expected classes from 0 to {NUM_CLASSES}, got {pixels.max()}"
        )
    _require_size(pixels, path, record)
    return pixels


def read_instances(path: Path, record: dict) -> tuple[np.ndarray, dict[int, int]]:
    """Read a PNG of ``annotations_instance``.

    Returns:
        the number of each pixel's instance, (H, W) int32, 0 for none; number -> category id.
    """
    pixels, mode = read_ids(path)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(f"{printable(path)}: expected an RGB image, got mode {mode!r}")
    _require_size(pixels, path, record)
    numbers = pixels[:, :, 1].astype(np.int32)
    pairs = np.unique(256 * numbers[numbers > 0] + pixels[:, :, 0][numbers > 0])
    table = {
        row["instance_id"]: row["class_id_1based"] - 1
        for row in load_categories("ade20k_instance_to_150")
    }
    classes: dict[int, int] = {}
    for number, label in zip(*(values.tolist() for values in divmod(pairs, 256)), strict=True):
        if number in classes or label not in table:
            fault = "has two classes" if number in classes else f"has the class {label}"
            raise DataError(
                f"{printable(path)}: instance {number} {fault}, expected one of 1 to {len(table)}"
            )
        classes[number] = table[label]
    return numbers, classes


def paste(
    semantic: np.ndarray, numbers: np.ndarray, classes: dict[int, int], categories: list[dict]
) -> tuple[np.ndarray, list[Segment]]:
    """Make the panoptic map of a photo.

    The first segment of a class has the class color as its id, further ones the next free number
    that is no class color.

    Args:
        semantic: (H, W) uint8, class + 1, 0 where unlabeled.
        numbers: (H, W) int32, instances.
        classes: number -> category id.

    Returns:
        ids (H, W) int32, 0 where there is no segment; the segments, stuff first.
    """
    thing_ids = thing_category_ids(categories)
    num_classes = len(categories)
    # Labels: of stuff the class, of things the instance's number after the classes, at last none.
    none = num_classes + MAX_INSTANCES + 1
    stuff_labels = np.full(num_classes + 1, none)
    is_stuff = [category["id"] not in thing_ids for category in categories]
    stuff_labels[1:][is_stuff] = np.flatnonzero(is_stuff)
    stuff = stuff_labels[semantic]
    things = np.where(numbers > 0, num_classes + numbers, none)

    ids = np.zeros(none + 1, dtype=np.int32)
    colors = [int(rgb2id(np.array(category["color"]))) for category in categories]
    segments: list[Segment] = []
    for labels in (stuff, things):
        areas, boxes = count_pixels(labels, none + 1)[:none], bounding_boxes(labels, none)
        for label in np.flatnonzero(areas).tolist():
            category_id = label if label < num_classes else classes[label - num_classes]
            ids[label] = _free_id(category_id, ids, colors)
            segments.append(
                {
                    "id": int(ids[label]),
                    "category_id": category_id,
                    "area": int(areas[label]),
                    "bbox": list(boxes[label]),
                    "iscrowd": 0,
                }
            )
    return ids[np.where(things < none, things, stuff)], segments


def _free_id(category_id: int, used: np.ndarray, colors: list[int]) -> int:
    """Return the class color, or where a segment has it, the next number that is none's."""
    candidate = colors[category_id]
    while candidate in used or (candidate in colors and candidate != colors[category_id]):
        candidate = candidate % MAX_SEGMENT_ID + 1
    return candidate


def _require_size(pixels: np.ndarray, path: Path, record: dict | None) -> None:
    height, width = pixels.shape[:2]
    if record and (width, height) != (record["width"], record["height"]):
        raise DataError(
            f"{printable(path)}: is {width} x {height}, but its photo {record['file_name']} "
            f"{record['width']} x {record['height']}"
        )


def _png(pixels: np.ndarray) -> bytes:
    return encode_image(pixels, "PNG", compress_level=FAST_COMPRESSION)


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder in the order of their names; a DataError if there are none."""
    if paths := sorted(folder.glob(pattern)):
        return paths
    raise DataError(f"{printable(folder)}: expected files {pattern}, got none")


def _for_each(convert: Callable[[Path], Result], paths: list[Path], target: Path) -> list[Result]:
    """Call ``convert`` on each path, in threads; results are in the order of the paths."""
    with ThreadPoolExecutor(num_workers([])) as pool:
        return list(tqdm(pool.map(convert, paths), f"Making {target}", len(paths), delay=1))
