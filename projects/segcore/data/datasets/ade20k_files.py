"""Files of ADE20K that follow from its download, with the content of the official ones.

The annotation of a photo is two PNGs: ``annotations`` holds classes of the SceneParsing benchmark
(0 is unlabeled, then 1 to 150), ``annotations_instance`` in red classes of its instance benchmark
(1 to 100) and in green the number of the instance in the photo, from 1.
"""

from pathlib import Path

import numpy as np
from panopticapi.utils import id2rgb, rgb2id

from segcore.data.datasets.categories import load_categories
from segcore.data.derived import both_exist, encode_png, locked
from segcore.data.images import open_image, read_ids, stored_size
from segcore.data.listing import for_each, list_files
from segcore.data.panoptic_format import (
    MAX_SEGMENT_ID,
    Segment,
    bounding_boxes,
    count_pixels,
    locate_segments,
    thing_category_ids,
    to_instances,
)
from segcore.errors import DataError
from segcore.files import atomic_folder, write_json
from segcore.text import printable

NUM_CLASSES = 150
MAX_INSTANCES = 255  # of a photo, in 8 bits


def make_semantic_maps(annotations: Path, target: Path) -> None:
    """Make the folder of semantic maps: contiguous class ids, 255 where unlabeled.

    Raises:
        DataError: a file is no PNG of classes.
        OutputError: the folder cannot be written.
    """
    paths = list_files(annotations, "*.png")
    with locked(target):
        if target.exists():
            return
        with atomic_folder(target) as unfinished:

            def convert(path: Path) -> None:
                content = encode_png(read_classes(path) - np.uint8(1))  # 0 becomes 255
                (unfinished / path.name).write_bytes(content)

            for_each(convert, paths, f"Making {target}")


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
        results = for_each(convert, list_files(images, "*.jpg"), f"Making {target}")
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
    images: Path,
    annotations: Path,
    instance_annotations: Path,
    pngs: Path,
    target: Path,
    *,
    official: bool = True,
) -> None:
    """Make panoptic PNGs and their JSON: stuff of the one annotation, things of the other over it.

    Args:
        official: as the official files, by which published figures were measured: areas and boxes
            are those before things cover stuff, and stuff that is covered altogether stays listed.
            Otherwise they are measured, and it is not.

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
        if not official:
            segments = measured(ids, segments)
        (unfinished / name).write_bytes(encode_png(id2rgb(ids)))
        annotation = {"image_id": record["id"], "file_name": name, "segments_info": segments}
        return record, annotation

    with locked(pngs):
        if both_exist(pngs, target):
            return
        with atomic_folder(pngs) as unfinished:
            results = for_each(convert, list_files(images, "*.jpg"), f"Making {pngs}")
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


def measured(ids: np.ndarray, segments: list[Segment]) -> list[Segment]:
    """Return the segments that have pixels, with the areas and boxes of these."""
    index = locate_segments(ids, segments)
    areas = count_pixels(index, len(segments) + 1).tolist()
    boxes = bounding_boxes(index, len(segments))
    return [
        {**segment, "area": area, "bbox": list(box)}
        for segment, area, box in zip(segments, areas, boxes, strict=False)
        if area
    ]


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
