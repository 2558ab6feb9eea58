"""COCO instances JSON: polygons, run lengths, crowds. CVAT, Roboflow and Label Studio export it."""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from segcore.data.category_rules import color_fault
from segcore.data.convert.masks import (
    TOO_FEW_POINTS,
    has_few_points,
    polygons_to_rle,
    run_lengths_to_rle,
)
from segcore.data.convert.painting import Region, Regions
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    find_photo,
    relative_folder,
    split_name,
)
from segcore.data.json_file import read_json
from segcore.data.listing import list_files
from segcore.data.record_rules import category_faults, photo_faults
from segcore.data.report import Problem
from segcore.errors import DataError
from segcore.text import printable, short_repr

ROBOFLOW_NAME = "_annotations.coco.json"
BOX_ONLY = "annotations without an outline (a box alone, or nothing)"


def read_coco(request: Request) -> Source:
    """List the photos of one or several JSONs, which have the same classes.

    Categories of one name are one class, with the first id: Roboflow lists the name of the project
    as a category beside that of the class.

    Raises:
        DataError: a JSON is no COCO instance annotation, or the classes differ.
    """
    jsons = [pair for source in request.sources for pair in _jsons(*source)]
    images = request.images_or(jsons[0][1].parent)
    classes: list[SourceClass] = []
    photos, problems = [], []
    for split, path in jsons:
        data = read_json(path)
        of_json = _classes(path, data)
        if classes and of_json != classes:
            raise DataError(
                f"{printable(path)}: has other categories than {printable(jsons[0][1])}: convert "
                "it alone"
            )
        classes = of_json
        first = {c.name: c.id for c in reversed(classes)}
        found, faults = _photos(path, data, split, images, {c.id: first[c.name] for c in classes})
        photos += found
        problems += faults
    return Source(images, [c for c in classes if c.id == first[c.name]], photos, problems)


def _jsons(split: str, path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(split, path)]
    try:
        paths = list_files(path, f"**/{ROBOFLOW_NAME}")
    except DataError as error:
        raise DataError(f"{error}: name the JSON itself") from error
    is_split = len(paths) > 1 or paths[0].parent != path
    return [(split or (split_name(p.parent.name) if is_split else ""), p) for p in paths]


def _classes(path: Path, data: object) -> list[SourceClass]:
    lists = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(_is_records(data.get(name)) for name in lists):
        raise DataError(
            f"{printable(path)}: expected a COCO instances JSON, an object with the lists "
            f"{', '.join(lists)} of objects"
        )
    if any("segments_info" in annotation for annotation in data["annotations"][:1]):
        raise DataError(
            f"{printable(path)}: is in COCO panoptic format already: see docs/custom_data.md"
        )
    for category in data["categories"]:
        # A class without isthing is valid here.
        for fault in category_faults({"isthing": 1, **category, "color": [0, 0, 0]}):
            raise DataError(f"{printable(path)}: a category: {fault}")
    (id_, count), *_ = Counter(c["id"] for c in data["categories"]).most_common(1) or [(0, 0)]
    if count > 1:
        raise DataError(f"{printable(path)}: {count} categories have the id {id_}")
    return [
        SourceClass(
            category["id"],
            category["name"],
            bool(category["isthing"]) if "isthing" in category else None,
            None if color_fault(category.get("color")) else tuple(category["color"]),
        )
        for category in data["categories"]
    ]


def _is_records(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def _photos(
    path: Path, data: dict, split: str, images: Path, class_ids: dict[int, int]
) -> tuple[list[AnnotatedPhoto], list[Problem]]:
    problems = []
    by_image = defaultdict(list)
    for annotation in data["annotations"]:
        image_id = annotation.get("image_id")
        by_image[image_id if isinstance(image_id, int | str) else None].append(annotation)
    photos, near = [], relative_folder(path, images)
    for position, record in enumerate(data["images"]):
        faults = photo_faults({**record, "file_name": "any"})  # find_photo has its own rules
        try:
            if faults:
                raise DataError(faults[0])
            name = find_photo(images, record.get("file_name"), near)
        except DataError as error:
            fault = f"'images' number {position + 1}: {error}"
            problems.append(Problem("broken record", str(path), fault))
            by_image.pop(record.get("id") if not faults else None, None)
            continue
        size = (record["height"], record["width"])
        annotations = by_image.pop(record["id"], [])
        read = partial(_read, annotations, size, class_ids)
        photos.append(AnnotatedPhoto(name, (path,), read, split))
    for image_id, annotations in by_image.items():
        fault = f"{len(annotations)} annotations of the image id {short_repr(image_id)}, which no "
        problems.append(Problem("annotation without image", str(path), f"{fault}image has"))
    return photos, problems


def _read(
    annotations: list[dict],
    annotated_size: tuple[int, int],
    class_ids: dict[int, int],
    size: tuple[int, int],
) -> Regions:
    if annotated_size != size:
        raise DataError(
            f"the JSON says {annotated_size[1]} x {annotated_size[0]}, but the photo as shown is "
            f"{size[1]} x {size[0]}"
        )
    regions, left_out = [], Counter()
    for annotation in annotations:
        name = f"annotation {short_repr(annotation.get('id'))}"
        category_id = annotation.get("category_id")
        if type(category_id) is not int or category_id not in class_ids:
            raise DataError(f"{name}: no category has the id {short_repr(category_id)}")
        segmentation = annotation.get("segmentation")
        if not segmentation:
            left_out[BOX_ONLY] += 1
            continue
        if isinstance(segmentation, list):
            segmentation = [polygon for polygon in segmentation if not has_few_points(polygon)]
            if not segmentation:
                left_out[TOO_FEW_POINTS] += 1
                continue
        try:
            rle = _rle(segmentation, size)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        is_crowd = annotation.get("iscrowd") in (1, True)
        regions.append(Region(rle, class_ids[category_id], is_crowd, _z_order(annotation)))
    return Regions(regions, left_out)


def _rle(segmentation: object, size: tuple[int, int]) -> dict:
    if isinstance(segmentation, dict):
        return run_lengths_to_rle(segmentation, size)
    if isinstance(segmentation, list):
        return polygons_to_rle(segmentation, size)
    raise DataError(f"expected polygons or run lengths, got {short_repr(segmentation)}")


def _z_order(annotation: dict) -> float | None:
    """Return the number that tools write beside COCO's keys, or among their attributes."""
    attributes = annotation.get("attributes")
    sources = (annotation, attributes if isinstance(attributes, dict) else {})
    values = [source.get("z_order") for source in sources]
    return next((value for value in values if type(value) in (int, float)), None)
