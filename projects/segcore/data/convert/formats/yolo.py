"""YOLO segmentation: data.yaml with the classes, a text file of polygons a photo."""

from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from segcore.data.category_rules import MAX_CATEGORIES, name_fault
from segcore.data.convert.masks import polygons_to_rle
from segcore.data.convert.painting import Region, Regions
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    photos_by_stem,
    split_name,
)
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.data.text_file import read_text
from segcore.errors import DataError
from segcore.text import printable, short_repr

BOX_ONLY = "lines that are a box, not a polygon"
CLASS_LIST = "classes.txt"  # that LabelImg and Label Studio write beside the labels
SPLITS = ("train", "val", "valid", "test")
BOX_NUMBERS = 4
MAX_YAML_BYTES = 2**20


def read_yolo(request: Request) -> Source:
    """List the photos under the folders ``images`` that have a text file under ``labels``.

    The split is that of a folder ``train``, ``val``, ``valid`` or ``test`` in the path; the paths
    in data.yaml, which are those of another machine as often as not, are not read.

    Raises:
        DataError: data.yaml names no classes, or there are no text files.
    """
    path, split = request.single, request.sources[0][0]
    path = path / "data.yaml" if path.is_dir() else path
    classes = _classes(path)
    images = request.images_or(path.parent)
    photos, problems = [], []
    labels = list_files(path.parent, "**/labels/**/*.txt")
    photo_names = {_key(stem): name for stem, name in photos_by_stem(images).items()}
    for label in labels:
        relative = PurePosixPath(label.relative_to(path.parent))
        name = photo_names.get(_key(str(relative.with_suffix(""))))
        if name is None and label.name == CLASS_LIST:
            continue
        if name is None:
            fault = f"its photo is not in {printable(images)}"
            problems.append(Problem("missing photo", str(label), fault))
            continue
        in_path = next((part for part in relative.parts if part in SPLITS), "")
        read = partial(_read, label, len(classes))
        photos.append(AnnotatedPhoto(name, (label, path), read, split or split_name(in_path)))
    return Source(images, classes, photos, problems)


def _key(stem: str) -> str:
    """Return what the names of a photo and its text file share."""
    return "/".join(part for part in PurePosixPath(stem).parts if part not in ("images", "labels"))


def _classes(path: Path) -> list[SourceClass]:
    """Read the class names of data.yaml, from the graph of its nodes: nothing is constructed."""
    try:
        root = yaml.compose(read_text(path, "data.yaml", MAX_YAML_BYTES), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deep"
        raise DataError(f"{printable(path)}: no valid YAML: {printable(reason)}") from error
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    node = next((value for key, value in pairs if key.value == "names"), None)
    match node:
        case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
            names = {str(index): item.value for index, item in enumerate(node.value)}
        case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
            names = {
                key.value: item.value for key, item in node.value if isinstance(key.value, str)
            }
        case _:
            names = {}
    if not 1 <= len(names) <= MAX_CATEGORIES:
        raise DataError(
            f"{printable(path)}: expected 1 to {MAX_CATEGORIES} class names under 'names', a list "
            f"or a number and a name a line, got {len(names)}"
        )
    if set(names) != set(map(str, range(len(names)))):
        raise DataError(
            f"{printable(path)}: expected 'names' of the classes 0 to {len(names) - 1}, got "
            f"{short_repr(list(names))}"
        )
    for name in names.values():
        if fault := name_fault(name):
            raise DataError(f"{printable(path)}: 'names': {fault}")
    return [SourceClass(index, names[str(index)]) for index in range(len(names))]


def _read(path: Path, num_classes: int, size: tuple[int, int]) -> Regions:
    height, width = size
    regions, left_out = [], Counter()
    for number, line in enumerate(read_text(path, "a text file of YOLO").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError as error:
            raise DataError(f"line {number}: expected numbers, got {short_repr(line)}") from error
        category_id, polygon = values[0], values[1:]
        if category_id not in range(num_classes):
            raise DataError(
                f"line {number}: expected a class from 0 to {num_classes - 1}, got {category_id:g}"
            )
        if len(polygon) == BOX_NUMBERS:
            left_out[BOX_ONLY] += 1
            continue
        if len(polygon) % 2 == 0:
            polygon = (polygon.reshape(-1, 2) * (width, height)).ravel()
        try:
            rle = polygons_to_rle([polygon.tolist()], size)
        except DataError as error:
            raise DataError(f"line {number}: {error}") from error
        regions.append(Region(rle, int(category_id)))
    return Regions(regions, left_out)
