"""Semantic maps: folders of PNGs whose values are classes, 8 or 16 bits, and a list of classes."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from segcore.data.category_rules import MAX_CATEGORIES, name_fault
from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    photos_by_stem,
)
from segcore.data.images import read_ids
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.data.text_file import read_text
from segcore.errors import DataError
from segcore.text import printable


def read_semantic(request: Request) -> Source:
    """List the maps whose names are those of the photos but for the suffix.

    Raises:
        DataError: the class list or the folder of photos is not named, or there are no maps.
    """
    if request.class_list is None:
        raise DataError("semantic maps need a list of the classes (--classes FILE)")
    classes = read_class_list(request.class_list)
    images = request.images_or(Path("images"))
    labels = {label.id: Label(label.id) for label in classes}
    photo_names = photos_by_stem(images)
    photos, problems = [], []
    for split, folder in request.sources:
        for path in list_files(folder, "**/*.png"):
            stem = os.path.splitext(path.relative_to(folder))[0]
            name = photo_names.get(stem) or photo_names.get(f"{folder.name}/{stem}")
            if name is None:
                fault = f"no photo in {printable(images)} has its name"
                problems.append(Problem("missing photo", str(path), fault))
                continue
            read = partial(_read, path, labels)
            photos.append(AnnotatedPhoto(name, (path, request.class_list), read, split))
    return Source(images, classes, photos, problems, things_by_default=False)


def read_class_list(path: Path) -> list[SourceClass]:
    """Read a text file with a name a line, the first of which is class 0.

    An empty line is a value without a class, such as that of unlabeled pixels.

    Raises:
        DataError: it has no names, or too many.
    """
    names = [line.strip() for line in read_text(path, "a list of classes").splitlines()]
    if not any(names) or len(names) > MAX_CATEGORIES:
        raise DataError(
            f"{printable(path)}: expected 1 to {MAX_CATEGORIES} class names, one a line, got "
            f"{len(names)}"
        )
    for name in filter(None, names):
        if fault := name_fault(name):
            raise DataError(f"{printable(path)}: {fault}")
    return [SourceClass(value, name) for value, name in enumerate(names) if name]


def read_values(path: Path) -> np.ndarray:
    """Return the values of a grey or palette image: (H, W) integers.

    Raises:
        DataError: it is broken, or has colors.
    """
    pixels, mode = read_ids(path)
    if pixels.ndim != 2:
        raise DataError(f"{printable(path)}: expected grey or palette values, got mode {mode!r}")
    return pixels.astype(np.int32)


def _read(path: Path, labels: dict[int, Label], size: tuple[int, int]) -> LabelMap:
    return LabelMap(read_values(path), labels)
