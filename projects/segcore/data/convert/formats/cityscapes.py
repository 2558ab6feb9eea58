"""Cityscapes: ``*_gtFine_instanceIds.png``, 19 classes of evaluation, of which 8 are things."""

from functools import partial
from pathlib import Path

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from segcore.data.convert.formats.semantic import read_values
from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    split_name,
)
from segcore.data.datasets.cityscapes_files import panoptic_map
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.text import printable

ANNOTATION, PHOTO = "_gtFine_instanceIds.png", "_leftImg8bit.png"


def read_cityscapes(request: Request) -> Source:
    """List the photos of ``train`` and ``val``; the annotation of ``test`` is not published.

    A thing region without an instance number is a crowd, as in the official conversion.

    Raises:
        DataError: there are no annotations.
    """
    root = request.folder
    images = request.images_or(root / "leftImg8bit")
    photos, problems = [], []
    for path in list_files(root / "gtFine", f"*/*/*{ANNOTATION}"):
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
        SourceClass(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"]))
        for c in CITYSCAPES_CATEGORIES
    ]
    return Source(images, classes, photos, problems)


def _read(path: Path, size: tuple[int, int]) -> LabelMap:
    values = read_values(path)
    _, segments = panoptic_map(values)
    labels = {s["id"]: Label(s["category_id"], is_instance=not s["iscrowd"]) for s in segments}
    return LabelMap(values, labels)
