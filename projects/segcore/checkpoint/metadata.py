"""Class names that travel with a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from segcore.checkpoint.files import local_file, read_checkpoint

METADATA_KEY = "metadata"
CLASS_KEYS = (
    "thing_classes",
    "thing_colors",
    "thing_dataset_id_to_contiguous_id",
    "stuff_classes",
    "stuff_colors",
    "stuff_dataset_id_to_contiguous_id",
    "ignore_label",
    "label_divisor",
    "classes",
)


def plain_metadata(metadata: Metadata) -> dict[str, Any]:
    """The classes of a data set as plain lists, dictionaries, texts and integers."""
    return {key: _plain(value) for key, value in metadata.as_dict().items() if key in CLASS_KEYS}


def class_metadata(checkpoint: str | Path | Mapping[str, Any]) -> Metadata | None:
    """The classes that a checkpoint was trained on.

    Args:
        checkpoint: a file (or Detectron2 URL), or what was read from one.

    Returns:
        Metadata that belongs to no data set of the catalog, or None where the file has none, as
        official files.
    """
    if not isinstance(checkpoint, Mapping):
        checkpoint = read_checkpoint(local_file(checkpoint))
    stored = checkpoint.get(METADATA_KEY)
    if not isinstance(stored, Mapping):
        return None
    classes = {key: value for key, value in stored.items() if key in CLASS_KEYS}
    return Metadata(name="checkpoint").set(**classes) if classes else None


def use_class_metadata(cfg: CfgNode, metadata: Metadata, name: str) -> None:
    """Make a config describe the classes of a checkpoint, so that no data set is needed; in place.

    The metadata are put into Detectron2's catalog under ``name``, which becomes the data set of
    training and test. A class count that fits neither things nor stuff becomes that of all classes,
    as where own data would set it.
    """
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(**plain_metadata(metadata))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    counts = [len(metadata.get(key) or ()) for key in ("thing_classes", "stuff_classes")]
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES not in counts:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = max(counts)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value  # NumPy arrays and scalars
