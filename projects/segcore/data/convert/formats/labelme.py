"""LabelMe: a JSON a photo with polygons, rectangles, circles and masks."""

import base64
import io
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from tqdm import tqdm

from segcore.data.category_rules import MAX_CATEGORIES, name_fault
from segcore.data.convert.masks import MIN_POINTS, TOO_FEW_POINTS, polygons_to_rle
from segcore.data.convert.painting import Region, Regions
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    find_photo,
    relative_folder,
)
from segcore.data.json_file import read_json
from segcore.data.listing import list_files
from segcore.data.record_rules import integer_rule
from segcore.data.report import Problem
from segcore.errors import DataError
from segcore.text import printable, short_repr

WITHOUT_AREA = ("line", "linestrip", "point", "points")
CIRCLE_POINTS = 64
_side_rule = integer_rule(1, 1_000_000)


def read_labelme(request: Request) -> Source:
    """List the photos of JSONs, whose labels in alphabetical order are the classes.

    Shapes of one label and one ``group_id`` are one thing.

    Raises:
        DataError: there is no JSON.
    """
    jsons = [
        (split, json)
        for split, path in request.sources
        for json in (list_files(path, "**/*.json") if path.is_dir() else [path])
    ]
    images = request.images_or(jsons[0][1].parent)
    listed, problems, labels = [], [], set()
    for split, path in tqdm(jsons, "Listing", unit="file", delay=1):
        try:
            data = _require_labelme(read_json(path))
            name = _photo(path, data, images)
        except DataError as error:
            message = str(error).removeprefix(f"{printable(path)}: ")
            problems.append(Problem("broken file", str(path), message))
            continue
        labels |= {shape["label"] for shape in data["shapes"]}
        size = (data["imageHeight"], data["imageWidth"])
        listed.append((name, path, data["shapes"], size, split))
    if len(labels) > MAX_CATEGORIES:
        raise DataError(f"expected at most {MAX_CATEGORIES} labels, got {len(labels)}")
    ids = {label: index for index, label in enumerate(sorted(labels), start=1)}
    photos = [
        AnnotatedPhoto(name, (path,), partial(_read, shapes, size, ids), split)
        for name, path, shapes, size, split in listed
    ]
    classes = [SourceClass(id_, label) for label, id_ in ids.items()]
    return Source(images, classes, photos, problems)


def _require_labelme(data: object) -> dict:
    """Return the JSON's content; a DataError where it is not LabelMe's."""
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DataError("expected a JSON of LabelMe, with a list of objects 'shapes'")
    for key in ("imageHeight", "imageWidth"):
        if fault := _side_rule(data.get(key)):
            raise DataError(f"{key!r}: {fault}")
    for shape in shapes:
        if fault := name_fault(shape.get("label")):
            raise DataError(f"'label': {fault}")
    return data


def _photo(path: Path, data: dict, images: Path) -> str:
    near = relative_folder(path, images)
    return find_photo(images, data.get("imagePath"), near)


def _read(
    shapes: list[dict], annotated_size: tuple[int, int], ids: dict[str, int], size: tuple[int, int]
) -> Regions:
    if annotated_size != size:
        raise DataError(
            f"the JSON says {annotated_size[1]} x {annotated_size[0]}, but the photo as shown is "
            f"{size[1]} x {size[0]}"
        )
    groups: dict[tuple, list[dict]] = {}
    left_out: Counter[str] = Counter()
    for number, shape in enumerate(shapes, start=1):
        kind, points = shape.get("shape_type") or "polygon", shape.get("points")
        if kind in WITHOUT_AREA:
            left_out[f"shapes without an area ({kind})"] += 1
            continue
        if kind == "polygon" and isinstance(points, list) and len(points) < MIN_POINTS:
            left_out[TOO_FEW_POINTS] += 1
            continue
        try:
            rle = _rle(kind, shape, size)
        except DataError as error:
            raise DataError(f"shape {number} ({short_repr(shape['label'])}): {error}") from error
        group = shape.get("group_id")
        # Shapes without a group are alone.
        key = (number,) if type(group) is not int else (shape["label"], group)
        groups.setdefault(key, []).append({"rle": rle, "label": shape["label"]})
    regions = [
        Region(mask_util.merge([part["rle"] for part in parts]), ids[parts[0]["label"]])
        for parts in groups.values()
    ]
    return Regions(regions, left_out)


def _rle(kind: object, shape: dict, size: tuple[int, int]) -> dict:
    points = shape.get("points")
    if not isinstance(points, list) or not all(map(_is_point, points)):
        raise DataError(f"expected 'points' as a list of x and y, got {short_repr(points)}")
    # X-AnyLabeling writes the four corners of these, LabelMe two of a rectangle.
    if kind == "polygon" or (kind in ("rectangle", "rotation") and len(points) == 4):
        return polygons_to_rle([[number for point in points for number in point]], size)
    if kind not in ("rectangle", "circle", "mask") or len(points) != 2:
        raise DataError(
            "expected a polygon, or a rectangle, circle or mask of two points, got "
            f"{short_repr(kind)} of {len(points)}"
        )
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return polygons_to_rle([[x0, y0, x1, y0, x1, y1, x0, y1]], size)
    if kind == "circle":
        angles = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
        radius = np.hypot(x1 - x0, y1 - y0)
        outline = np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], axis=1)
        return polygons_to_rle([outline.ravel().tolist()], size)
    return _mask_rle(shape.get("mask"), (round(x0), round(y0), round(x1), round(y1)), size)


def _is_point(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in point)
    )


def _mask_rle(mask: object, box: tuple[int, int, int, int], size: tuple[int, int]) -> dict:
    """Return the run lengths of a mask, a PNG in base 64, of the pixels in a box, its last row and
    column included."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 < size[1] and 0 <= y0 <= y1 < size[0]) or not isinstance(mask, str):
        raise DataError(f"expected a mask in a box on the photo, got {short_repr(mask)} in {box}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(mask, validate=True)), formats=["PNG"]) as png:
            if png.size != (x1 - x0 + 1, y1 - y0 + 1):
                raise DataError(f"expected a mask that fills its box {box}, got {png.size}")
            pixels = np.asarray(png.convert("1"))
    except DataError:
        raise
    except Exception as error:  # Pillow fails in many ways
        raise DataError(f"its mask cannot be read ({printable(error)})") from error
    whole = np.zeros(size, dtype=np.uint8, order="F")
    whole[y0 : y1 + 1, x0 : x1 + 1] = pixels
    return mask_util.encode(whole)
