"""Registration in Detectron2's catalogs, with an error that helps where files are missing."""

import os
from collections.abc import Callable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from segcore.errors import DataError

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"

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
