"""Images for classification: a folder for each class, no annotation file.

``DATASETS.IMAGE_FOLDER.{TRAIN,TEST}`` name the folders of the splits. The classes are the names of
their sub-folders, in sorted order; images may lie deeper. :func:`setup_image_folders` checks and
registers them with Detectron2.
"""

import functools
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from torchvision.datasets.folder import find_classes, make_dataset
from torchvision.models import ResNet50_Weights

from segcore.data.category_rules import MAX_CATEGORIES, name_fault
from segcore.data.images import is_image_name
from segcore.errors import DataError
from segcore.files import relative_to
from segcore.text import printable

DATASET_NAMES = {"TRAIN": "image_folder_train", "TEST": "image_folder_test"}
# Classes of published models, for prediction without their data; in the order of the folders.
MetadataCatalog.get("imagenet_1k").set(classes=ResNet50_Weights.DEFAULT.meta["categories"])


def setup_image_folders(cfg: CfgNode) -> None:
    """Where ``DATASETS.IMAGE_FOLDER`` is set: register the data, adapt the config in place.

    Sets ``DATASETS.TRAIN`` and ``TEST`` and ``MODEL.CLASSIFIER.NUM_CLASSES``. Of a split that is
    not set, ``TEST`` is left empty and ``TRAIN`` has class names but no images.

    Raises:
        DataError: a folder does not exist, or has no class; a class has no image; the splits have
            different classes.
    """
    folders = image_folders(cfg)
    if not folders:
        return
    classes = {split: read_classes(folder) for split, folder in folders.items()}
    require_same_classes(folders, classes)
    for split, folder in folders.items():
        empty = classes_without_images(folder, classes[split])
        if empty:
            raise DataError(
                f"DATASETS.IMAGE_FOLDER.{split}: {len(empty)} class folder(s) without an image, "
                f"such as {printable(folder / empty[0])}: add images, or remove the folder"
            )

    names = next(iter(classes.values()))
    for split in DATASET_NAMES:
        _register(split, folders.get(split), names)
    cfg.DATASETS.TRAIN = (DATASET_NAMES["TRAIN"],)
    cfg.DATASETS.TEST = (DATASET_NAMES["TEST"],) if "TEST" in folders else ()
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = len(names)


def image_folders(cfg: CfgNode) -> dict[str, Path]:
    """The folders that the config names, by split."""
    paths = cfg.DATASETS.get("IMAGE_FOLDER", dict.fromkeys(DATASET_NAMES))
    return {split: Path(paths[split]).expanduser() for split in DATASET_NAMES if paths[split]}


def use_image_classes(cfg: CfgNode, metadata: Metadata) -> None:
    """Set ``MODEL.CLASSIFIER.NUM_CLASSES`` to the class count of a checkpoint, in place."""
    classes = metadata.get("classes")
    if classes and "CLASSIFIER" in cfg.MODEL:
        cfg.MODEL.CLASSIFIER.NUM_CLASSES = len(classes)


def read_classes(folder: Path) -> list[str]:
    """The names of a folder's sub-folders, sorted.

    Raises:
        DataError: the folder cannot be read, has no sub-folder or too many, or one of a name that
            :func:`name_fault` refuses.
    """
    try:
        classes = find_classes(folder)[0]
    except OSError as error:
        reason = error.strerror or "it has none"
        raise DataError(
            f"{printable(folder)}: expected a folder with a sub-folder of images for each class: "
            f"{reason}{relative_to(folder)}"
        ) from error
    if len(classes) > MAX_CATEGORIES:
        raise DataError(
            f"{printable(folder)}: expected at most {MAX_CATEGORIES} classes, got {len(classes)}"
        )
    for name in classes:
        if fault := name_fault(name):
            raise DataError(f"{printable(folder)}: name of a class folder: {fault}")
    return classes


def classes_without_images(folder: Path, classes: list[str]) -> list[str]:
    """The classes whose folder has no image."""
    return [name for name in classes if not _has_image(folder / name)]


def require_same_classes(folders: dict[str, Path], classes: dict[str, list[str]]) -> None:
    """Raise a DataError if there are two splits, and their classes differ."""
    if len(classes) < len(DATASET_NAMES):
        return
    difference = set(classes["TRAIN"]) ^ set(classes["TEST"])
    if difference:
        name = min(difference)
        there, missing = ("TRAIN", "TEST") if name in classes["TRAIN"] else ("TEST", "TRAIN")
        raise DataError(
            f"the splits must have the same classes, but {printable(folders[there])} has a folder "
            f"'{printable(name)}' and {printable(folders[missing])} has not"
        )


def load_image_folder(folder: Path, classes: list[str]) -> list[dict]:
    """The images as dicts with "file_name" and "class_id", the class's number, sorted by both."""
    numbers = {name: number for number, name in enumerate(classes)}
    samples = make_dataset(folder, numbers, is_valid_file=is_image_name)
    return [{"file_name": path, "class_id": number} for path, number in samples]


def _has_image(folder: str | Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            _has_image(entry.path) if entry.is_dir() else is_image_name(entry.name)
            for entry in entries
        )


def _register(split: str, folder: Path | None, classes: list[str]) -> None:
    name = DATASET_NAMES[split]
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    MetadataCatalog.get(name).set(classes=classes, evaluator_type="image_classification")
    if folder is not None:
        DatasetCatalog.register(name, functools.partial(load_image_folder, folder, classes))
