"""Class names of a checkpoint: their storage, checks and use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from segcore.data.category_rules import MAX_CATEGORIES, color_fault, name_fault
from segcore.data.kinds import kinds_of
from segcore.errors import CheckpointError
from segcore.text import printable

METADATA_KEY = "metadata"
# For image classification, whose evaluation needs no confusion matrix.
MAX_IMAGE_CLASSES = 100_000
MAX_CATEGORY_ID = 2**31 - 1


def plain_metadata(metadata: Metadata) -> dict[str, Any]:
    """Return the classes of a data set as plain lists, dictionaries, texts and integers."""
    return {key: _plain(value) for key, value in metadata.as_dict().items() if key in CLASS_KEYS}


def checked_metadata(stored: Any, path: str | Path) -> dict[str, Any]:
    """Return the classes in a file, each field checked; other fields are left out.

    Raises:
        CheckpointError: a field is not what :func:`plain_metadata` makes; names file and field.
    """
    if not isinstance(stored, Mapping | None):
        raise CheckpointError(
            f"{printable(path)}: metadata: expected a dictionary, got a {type(stored).__name__}"
        )
    classes = {key: stored[key] for key in CLASS_KEYS if key in (stored or ())}
    for key, value in classes.items():
        if fault := _FAULTS[key](value):
            raise CheckpointError(f"{printable(path)}: metadata: {key}: {fault}")
    num_classes = max((len(classes.get(key, ())) for key in NAME_KEYS), default=0)
    for key in ID_MAP_KEYS:
        outside = [index for index in classes.get(key, {}).values() if index >= num_classes]
        if outside:
            raise CheckpointError(
                f"{printable(path)}: metadata: {key}: expected classes in [0, {num_classes}), "
                f"got {outside[0]}"
            )
    return classes


def class_metadata(checkpoint: Mapping[str, Any]) -> Metadata | None:
    """Return the classes that a checkpoint was trained on.

    Args:
        checkpoint: result of :func:`read_checkpoint`.

    Returns:
        Metadata that belongs to no data set of the catalog, or None if the file has none, as
        official files.
    """
    classes = checkpoint.get(METADATA_KEY)
    return Metadata(name="checkpoint").set(**classes) if classes else None


def use_class_metadata(cfg: CfgNode, metadata: Metadata, name: str) -> None:
    """Set the classes of a config to those of a checkpoint, in place, so that it needs no data set.

    The metadata are put into Detectron2's catalog under ``name``, which becomes the data set of
    training and test. A class count that fits neither things nor stuff becomes that of all classes,
    as where custom data would set it.
    """
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(**plain_metadata(metadata))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    counts = [len(metadata.get(key) or ()) for key in ("thing_classes", "stuff_classes")]
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES not in counts and any(counts):
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = max(counts)
    for kind in kinds_of(cfg).values():
        kind.use_classes(cfg, metadata)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value  # NumPy arrays and scalars


def _list_fault(
    values: Any, item_fault: Callable[[Any], str | None], max_length: int = MAX_CATEGORIES
) -> str | None:
    if not isinstance(values, list | tuple):
        return f"expected a list, got a {type(values).__name__}"
    if len(values) > max_length:
        return f"expected at most {max_length:,} entries, got {len(values):,}"
    for index, value in enumerate(values):
        if fault := item_fault(value):
            return f"entry {index}: {fault}"
    return None


def _names_fault(names: Any) -> str | None:
    return _list_fault(names, name_fault)


def _image_classes_fault(names: Any) -> str | None:
    return _list_fault(names, name_fault, MAX_IMAGE_CLASSES)


def _colors_fault(colors: Any) -> str | None:
    return _list_fault(colors, color_fault)


def _id_map_fault(indices: Any) -> str | None:
    """Check a map of category ids to classes, each class once."""
    if not isinstance(indices, Mapping):
        return f"expected a dictionary of integers, got a {type(indices).__name__}"
    if len(indices) > MAX_CATEGORIES:
        return f"expected at most {MAX_CATEGORIES:,} entries, got {len(indices):,}"
    for identity, index in indices.items():
        if fault := _integer_fault(identity) or _integer_fault(index):
            return fault
    if len(set(indices.values())) < len(indices):
        return "expected every class once"
    return None


def _integer_fault(value: Any, minimum: int = 0) -> str | None:
    expected = f"expected an integer in [{minimum}, {MAX_CATEGORY_ID}]"
    if not isinstance(value, int) or isinstance(value, bool):
        return f"{expected}, got a {type(value).__name__}"
    if not minimum <= value <= MAX_CATEGORY_ID:
        return f"{expected}, got one outside of it"
    return None


def _ignore_label_fault(value: Any) -> str | None:
    return _integer_fault(value, minimum=-1)


def _label_divisor_fault(value: Any) -> str | None:
    return _integer_fault(value, minimum=1)


NAME_KEYS = ("thing_classes", "stuff_classes", "classes")
ID_MAP_KEYS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
_FAULTS: dict[str, Callable[[Any], str | None]] = {
    "thing_classes": _names_fault,
    "thing_colors": _colors_fault,
    "thing_dataset_id_to_contiguous_id": _id_map_fault,
    "stuff_classes": _names_fault,
    "stuff_colors": _colors_fault,
    "stuff_dataset_id_to_contiguous_id": _id_map_fault,
    "ignore_label": _ignore_label_fault,
    "label_divisor": _label_divisor_fault,
    "classes": _image_classes_fault,
}
CLASS_KEYS = tuple(_FAULTS)
