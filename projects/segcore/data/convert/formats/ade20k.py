"""ADE20K (ADEChallengeData2016): ``annotations``, and ``annotations_instance`` if it is there."""

from functools import partial
from pathlib import Path

import numpy as np

from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    split_name,
)
from segcore.data.datasets.ade20k_files import read_classes, read_instances
from segcore.data.datasets.categories import load_categories
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.text import printable


def read_ade20k(request: Request) -> Source:
    """List the photos of ``training`` and ``validation``; things lie over stuff.

    A pixel of a thing class without an instance is unlabeled, as in the official conversion;
    without ``annotations_instance`` altogether, things are not told apart.

    Raises:
        DataError: there are no annotations.
    """
    root = request.folder
    images = request.images_or(root / "images")
    categories = load_categories("ade20k_150")
    classes = [
        SourceClass(c["id"], c["name"].strip(), bool(c["isthing"]), tuple(c["color"]))
        for c in categories
    ]
    thing_ids = frozenset(c.id for c in classes if c.is_thing)
    photos, problems = [], []
    for path in list_files(root / "annotations", "*/*.png"):
        folder = path.parent.name
        name = f"{folder}/{path.stem}.jpg"
        if not (images / name).is_file():
            fault = f"its photo {name} is not in {printable(images)}"
            problems.append(Problem("missing photo", str(path), fault))
            continue
        instances = root / "annotations_instance" / folder / path.name
        files = (path, instances) if instances.parent.is_dir() else (path,)
        read = partial(_read, files, name, thing_ids)
        photos.append(AnnotatedPhoto(name, files, read, split_name(folder)))
    return Source(images, classes, photos, problems)


def _read(
    files: tuple[Path, ...], photo: str, thing_ids: frozenset[int], size: tuple[int, int]
) -> LabelMap:
    record = {"file_name": photo, "height": size[0], "width": size[1]}
    values = read_classes(files[0], record).astype(np.int32)
    labels = {class_id + 1: Label(class_id) for class_id in range(150)}
    if len(files) == 1:
        return LabelMap(values, labels)
    numbers, classes = read_instances(files[1], record)
    stuff = {value: label for value, label in labels.items() if label.category_id not in thing_ids}
    things = {256 + number: Label(id_, is_instance=True) for number, id_ in classes.items()}
    return LabelMap(np.where(numbers > 0, 256 + numbers, values), {**stuff, **things})
