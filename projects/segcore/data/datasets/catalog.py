"""Registration in Detectron2's catalogs, where missing files are made or an error helps."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from segcore.errors import DataError, OutputError
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

logger = logging.getLogger(__name__)

Loader = Callable[[], list[dict]]


@dataclass(frozen=True)
class Derivation:
    """Files of a data set that follow from others.

    Attributes:
        sources: path -> description, what they are made of.
        make: writes the files, atomically; called where one of them is needed and missing.
    """

    sources: Mapping[str, str]
    make: Callable[[], object]

    def missing_sources(self) -> dict[str, str]:
        return {path: text for path, text in self.sources.items() if not PathManager.exists(path)}


def datasets_root() -> str:
    """Return the folder that holds ``coco``, ``ADEChallengeData2016``, ..."""
    return os.path.expanduser(os.getenv(ROOT_VARIABLE, DEFAULT_ROOT))


def register(
    name: str,
    load: Loader,
    *,
    needs: Mapping[str, str],
    derivations: Mapping[str, Derivation] | None = None,
    **metadata,
) -> None:
    """Register a data set and its metadata, unless the name is already taken.

    It is taken when this runs again, or when the official code was imported before.

    Args:
        load: returns Detectron2's dataset dicts; called when the data set is first used.
        needs: path -> description, what ``load`` reads.
        derivations: path -> how it is made where it is missing.
    """
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, partial(_load_existing, name, load, needs))
    MetadataCatalog.get(name).set(derivations=dict(derivations or {}), **metadata)


def register_again(
    name: str,
    *,
    needs: Mapping[str, str],
    derivations: Mapping[str, Derivation] | None = None,
    preparation: Mapping[str, str] | None = None,
) -> None:
    """Have a data set of Detectron2 make what it misses, or say how; its loader stays.

    Args:
        needs, derivations: as in :func:`register`.
        preparation: path -> how the user can make it.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("derivations") is not None:
        return
    metadata.set(derivations=dict(derivations or {}), preparation=dict(preparation or {}))
    if name in DatasetCatalog:
        load = DatasetCatalog.pop(name)
        DatasetCatalog.register(name, partial(_load_existing, name, load, needs))


def make_missing_file(dataset_name: str, path: str | None) -> None:
    """Make a file or folder of a data set that is missing, where its sources are there.

    Raises:
        OutputError: it cannot be written.
        DataError: a source is faulty.
    """
    derivation = MetadataCatalog.get(dataset_name).get("derivations", {}).get(path)
    if derivation is None or PathManager.exists(path) or derivation.missing_sources():
        return
    sources = ", ".join(derivation.sources)
    logger.info("%s is missing: it is made of %s", path, sources or "the data set")
    try:
        derivation.make()
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise OutputError(
            f"{path}: it is missing, and cannot be made of {sources or 'the data set'}: {reason}\n"
            "make its folder writable for the first run"
        ) from error


def missing_file_message(dataset_name: str, key: str, split: str) -> str | None:
    """Say that a file or folder is missing and cannot be made, and how to get it, else None.

    Args:
        key: of the metadata that name it, such as "image_root".
        split: "TRAIN" or "TEST", of ``DATASETS``.
    """
    metadata = MetadataCatalog.get(dataset_name)
    path = metadata.get(key)
    if path is None or PathManager.exists(path):
        return None
    derivation = metadata.get("derivations", {}).get(path)
    if derivation and not derivation.missing_sources():
        return None
    way = _way(derivation) if derivation else metadata.get("preparation", {}).get(path)
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


def _way(derivation: Derivation) -> str:
    missing = "; ".join(f"{path} ({text})" for path, text in derivation.missing_sources().items())
    return f"it is made by itself once there is {missing}"


def _load_existing(name: str, load: Loader, needs: Mapping[str, str]) -> list[dict]:
    for path in needs:
        make_missing_file(name, path)
    missing = {path: text for path, text in needs.items() if not PathManager.exists(path)}
    if missing:
        derivations = MetadataCatalog.get(name).derivations
        listed = "; ".join(
            f"{path}: {text}{f', {_way(derivations[path])}' if path in derivations else ''}"
            for path, text in missing.items()
        )
        raise DataError(
            f"data set {name!r} is not there. Missing:\n{listed}.\nPrepare these, or set the "
            f"environment variable {ROOT_VARIABLE} to the folder of all data sets (it is "
            f"{os.environ.get(ROOT_VARIABLE, f'not set, which means {DEFAULT_ROOT!r}')})."
        )
    try:
        return load()
    except AssertionError as error:  # by which Detectron2's loaders say what they miss
        raise DataError(f"data set {name!r}: {error}") from error
