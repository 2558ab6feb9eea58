"""Classes of a checkpoint and of a data set, matched by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.data import Metadata
from torch import Tensor

from segcore.text import printable

# Entry of a model's state dict -> the classes of its first rows, ascending; rows after them, such
# as that of "no object", belong to no class. A model offers it as ``class_rows()``.
ClassRows = Mapping[str, Sequence[int]]


@dataclass
class ClassList:
    """Class names by contiguous id, and the ids of things, if they are known."""

    names: list[str]
    thing_ids: frozenset[int] | None

    def pairs(self) -> list[tuple[str, bool | None]]:
        """Return (name, whether it is a thing) of each class."""
        ids = self.thing_ids
        return [(n, None if ids is None else i in ids) for i, n in enumerate(self.names)]


def class_list(metadata: Metadata, num_classes: int | None = None) -> ClassList | None:
    """Return the classes that metadata name for a model.

    Metadata name classes as things and as stuff: some data sets have all in both lists, or all in
    the one for stuff, or are used for their things alone. The list of the model's length counts,
    else the longest.

    Returns:
        None if the metadata name no classes.
    """
    lists = [metadata.get(key) or [] for key in ("stuff_classes", "thing_classes", "classes")]
    stuff, _, image_classes = lists
    names = next((names for names in lists if len(names) == num_classes), max(lists, key=len))
    if not names:
        return None
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    known = ids and names is not image_classes and len(names) >= len(stuff)
    return ClassList(list(names), frozenset(ids.values()) if known else None)


def class_count(rows: ClassRows) -> int | None:
    """Return the number of classes of a model; None if it has no heads with rows of classes."""
    return len({index for classes in rows.values() for index in classes}) or None


def compare_classes(
    stored: Metadata, wanted: Metadata, num_classes: int | None
) -> tuple[str | None, list[int] | None]:
    """Compare the classes of a checkpoint with those of a data set.

    Args:
        num_classes: of the model; None if unknown.

    Returns:
        The :func:`class_difference`, and the :func:`class_order` if they are the same classes. Both
        None if the classes are equal, or one side names none.
    """
    old, new = class_list(stored, num_classes), class_list(wanted, num_classes)
    difference = class_difference(old, new) if old and new else None
    return difference, None if difference is None else class_order(old, new)


def class_difference(stored: ClassList, wanted: ClassList) -> str | None:
    """Describe the first difference between two lists of the same classes in the same order."""
    if len(stored.names) != len(wanted.names):
        return f"{len(stored.names)} classes instead of {len(wanted.names)}"
    flags_known = stored.thing_ids is not None and wanted.thing_ids is not None
    for index, (old, new) in enumerate(zip(stored.pairs(), wanted.pairs(), strict=True)):
        if old[0] != new[0]:
            return f"class {index} is '{printable(old[0], 40)}', not '{printable(new[0], 40)}'"
        if flags_known and old[1] != new[1]:
            kinds = "a thing, not stuff" if old[1] else "stuff, not a thing"
            return f"class {index}, '{printable(old[0], 40)}', is {kinds}"
    return None


def class_order(stored: ClassList, wanted: ClassList) -> list[int] | None:
    """Return the stored index of each wanted class if both have the same classes, else None."""
    flags_known = stored.thing_ids is not None and wanted.thing_ids is not None
    old, new = (
        c.pairs() if flags_known else [(n, None) for n in c.names] for c in (stored, wanted)
    )
    if len(set(old)) < len(old) or set(old) != set(new) or len(old) != len(new):
        return None
    index = {pair: i for i, pair in enumerate(old)}
    return [index[pair] for pair in new]


def permute_classes(
    state: Mapping[str, Tensor], rows: ClassRows, order: Sequence[int]
) -> dict[str, Tensor]:
    """Return the entries of ``rows`` with their rows in the order of the model's classes.

    Args:
        state: name in the model -> stored tensor; one with fewer rows than classes is left out.
        order: the stored class of each of the model's classes.
    """
    permuted = {}
    for name, classes in rows.items():
        if name in state and state[name].ndim and len(state[name]) >= len(classes):
            stored = sorted(order[index] for index in classes)
            source = [stored.index(order[index]) for index in classes]
            source += range(len(classes), len(state[name]))
            permuted[name] = state[name][torch.tensor(source, dtype=torch.int64)]
    return permuted


def stored_class_count(
    rows: ClassRows, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> int | None:
    """Return the number of classes in a file, from the shapes of its heads.

    Returns:
        None if no shape differs in its number of rows.
    """
    heads: dict[tuple[int, ...], int] = {}  # classes of a head -> how many more the file has
    for name, classes in rows.items():
        if name in shapes and all(shapes[name]):
            (old, *_), (new, *_) = shapes[name]
            heads[tuple(classes)] = old - new
    if not heads:
        return None
    return class_count(rows) + sum(heads.values())
