"""Registration in Detectron2's catalogs, with an error that helps where files are missing."""

import os
from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from segcore.errors import DataError
from segcore.files import relative_to
from segcore.text import printable

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
# Metadata that name folders and files which training reads.
TRAINING_KEYS = (
    "image_root",
    "image_dir",
    "gt_dir",
    "panoptic_root",
    "panoptic_json",
    "sem_seg_root",
)

Loader = Callable[[], list[dict]]


def datasets_root() -> str:
    """The folder that holds ``coco``, ``ADEChallengeData2016``, ..."""
    return os.path.expanduser(os.getenv(ROOT_VARIABLE, DEFAULT_ROOT))


def register(name: str, load: Loader, *, needs: dict[str, str], **metadata) -> None:
    """Register a data set and its metadata, unless the name is already taken.

    It is taken when this runs again, or when the official code was imported before.

    Args:
        load: returns Detectron2's dataset dicts; called when the data set is first used.
        needs: path -> what is to be found there.
    """
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, partial(_load_existing, name, load, needs))
    MetadataCatalog.get(name).set(**metadata)


def missing_file_message(dataset_name: str, key: str, split: str) -> str | None:
    """Say that a file or folder is missing, and how to get it, else None.

    Files that are made when the data set is loaded, ``derived_keys`` of the metadata, are not.

    Args:
        key: of the metadata that name it, such as "image_root".
        split: "TRAIN" or "TEST", of ``DATASETS``.
    """
    metadata = MetadataCatalog.get(dataset_name)
    path = metadata.get(key)
    is_derived = key in metadata.get("derived_keys", ())
    if path is None or is_derived or PathManager.exists(path):
        return None
    way = metadata.get("preparation", {}).get(path)
    without = ", or train without evaluation by DATASETS.TEST '()'" if split == "TEST" else ""
    return (
        f"{path}{relative_to(path)} ({key} of the data set {printable(dataset_name)}, "
        f"DATASETS.{split}) does not exist{f': {way}' if way else ''}\n"
        f"put the data there, or set the environment variable {ROOT_VARIABLE} to their folder"
        f"{without}"
    )


def require_training_files(cfg: CfgNode) -> None:
    """Raise a DataError if a folder or an annotation file of ``DATASETS.TRAIN`` is missing.

    Only of data sets that are registered with Detectron2's names of metadata.
    """
    for name in cfg.DATASETS.TRAIN:
        keys = TRAINING_KEYS
        if MetadataCatalog.get(name).get("evaluator_type") in ("coco", "lvis"):
            keys += ("json_file",)  # of others it is for evaluation
        for key in keys:
            if message := missing_file_message(name, key, "TRAIN"):
                raise DataError(message)


def _load_existing(name: str, load: Loader, needs: dict[str, str]) -> list[dict]:
    missing = {path: what for path, what in needs.items() if not PathManager.exists(path)}
    if missing:
        listed = "; ".join(f"{path}: {what}" for path, what in missing.items())
        raise DataError(
            f"data set {name!r} is not there. Missing:\n{listed}.\nPrepare these, or set the "
            f"environment variable {ROOT_VARIABLE} to the folder of all data sets (it is "
            f"{os.environ.get(ROOT_VARIABLE, f'not set, which means {DEFAULT_ROOT!r}')})."
        )
    return load()
