"""Mapillary Vistas v1.2: 16-bit ``instances`` PNGs and the class list of the download."""

from functools import partial
from pathlib import Path

import numpy as np

from segcore.data.category_rules import MAX_CATEGORIES, color_fault, name_fault
from segcore.data.convert.formats.semantic import read_values
from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    split_name,
)
from segcore.data.json_file import read_json
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.errors import DataError
from segcore.text import printable

CONFIGS = ("config_v1.2.json", "config.json")
INSTANCE_FACTOR = 256  # value = 256 * label + number of the instance


def read_mapillary(request: Request) -> Source:
    """List the photos of ``training`` and ``validation``.

    Classes are those that the download's config evaluates, and things those with ``instances``.

    Raises:
        DataError: there is no config, or no annotation.
    """
    root = request.folder
    images = request.images_or(root)
    config = next((root / name for name in CONFIGS if (root / name).is_file()), root / CONFIGS[1])
    classes = _classes(config)
    photos, problems = [], []
    for path in list_files(root, "*/instances/*.png"):
        folder = path.parts[-3]
        name = f"{folder}/images/{path.stem}.jpg"
        if (images / name).is_file():
            read = partial(_read, path, {c.id for c in classes})
            photos.append(AnnotatedPhoto(name, (path, config), read, split_name(folder)))
        else:
            fault = f"its photo {name} is not in {printable(images)}"
            problems.append(Problem("missing photo", str(path), fault))
    return Source(images, classes, photos, problems)


def _classes(config: Path) -> list[SourceClass]:
    data = read_json(config)
    labels = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, list) or not 1 <= len(labels) <= MAX_CATEGORIES:
        raise DataError(f"{printable(config)}: expected a list 'labels' of the classes")
    classes = []
    for index, label in enumerate(labels):
        name = label.get("readable") if isinstance(label, dict) else None
        if fault := name_fault(name):
            raise DataError(f"{printable(config)}: 'readable' of label {index}: {fault}")
        if label.get("evaluate", True):
            color = None if color_fault(label.get("color")) else tuple(label["color"])
            classes.append(SourceClass(index, name, bool(label.get("instances")), color))
    return classes


def _read(path: Path, class_ids: set[int], size: tuple[int, int]) -> LabelMap:
    values = read_values(path)
    labels = {
        value: Label(value // INSTANCE_FACTOR, is_instance=True)
        for value in np.unique(values).tolist()
        if value // INSTANCE_FACTOR in class_ids
    }
    return LabelMap(values, labels)
