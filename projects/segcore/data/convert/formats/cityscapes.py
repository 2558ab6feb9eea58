"""Cityscapes: ``*_gtFine_instanceIds.png``, 19 classes of evaluation, of which 8 are things."""

from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from segcore.data.convert.formats.semantic import read_values
from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    files_below,
    register_format,
    split_name,
)
from segcore.data.report import Problem
from segcore.text import printable

# Of the 19 classes, in the order of their contiguous ids (cityscapesscripts, labels.py).
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ANNOTATION, PHOTO = "_gtFine_instanceIds.png", "_leftImg8bit.png"
INSTANCE_FACTOR = 1000  # id of an instance = 1000 * label id + number


@register_format("cityscapes", "folder with gtFine (and leftImg8bit)")
def read_cityscapes(request: Request) -> Source:
    """List the photos of ``train`` and ``val``; the annotation of ``test`` is not published.

    A thing region without an instance number is a crowd, as in the official conversion.

    Raises:
        DataError: there are no annotations.
    """
    root = request.source_folder
    images = request.images_or(root / "leftImg8bit")
    photos, problems = [], []
    for path in files_below(root / "gtFine", f"*/*/*{ANNOTATION}"):
        split, city = path.parts[-3:-1]
        if split == "test":
            continue
        name = f"{split}/{city}/{path.name.removesuffix(ANNOTATION)}{PHOTO}"
        if (images / name).is_file():
            read = partial(_read, path)
            photos.append(AnnotatedPhoto(name, (path,), read, split_name(split)))
        else:
            fault = f"its photo {name} is not in {printable(images)}"
            problems.append(Problem("missing photo", str(path), fault))
    classes = [
        SourceClass(label_id, c["name"], bool(c["isthing"]), tuple(c["color"]))
        for label_id, c in zip(LABEL_IDS, CITYSCAPES_CATEGORIES, strict=True)
    ]
    return Source(images, classes, photos, problems)


def _read(path: Path, size: tuple[int, int]) -> LabelMap:
    values = read_values(path)
    labels = {}
    for value in np.unique(values).tolist():
        is_instance = value >= INSTANCE_FACTOR
        label_id = value // INSTANCE_FACTOR if is_instance else value
        if label_id in LABEL_IDS:
            labels[value] = Label(label_id, is_instance)
    return LabelMap(values, labels)
