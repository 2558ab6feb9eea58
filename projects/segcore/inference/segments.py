"""The list of segments that belongs to a panoptic map."""

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

PanopticResult = tuple[Tensor, list[dict[str, Any]]]


def number_segments(
    labels: Iterable[int], kept: Iterable[bool], thing_ids: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Number the masks that are kept, those of one stuff class with one number.

    Args:
        labels: class of each mask.
        kept: whether it has pixels in the map.
        thing_ids: classes that are things.

    Returns:
        The segment id of each mask, 0 for those left out, and "segments_info" of Detectron2: for
        each segment {"id": int, "isthing": bool, "category_id": int}, ids 1, 2, ... in order.
    """
    things = frozenset(thing_ids)
    id_of_mask, id_of_stuff, segments = [], {}, []
    for label, is_kept in zip(labels, kept, strict=True):
        if not is_kept:
            id_of_mask.append(0)
        elif label in id_of_stuff:
            id_of_mask.append(id_of_stuff[label])
        else:
            number, isthing = len(segments) + 1, label in things
            id_of_mask.append(number)
            segments.append({"id": number, "isthing": isthing, "category_id": label})
            if not isthing:
                id_of_stuff[label] = number
    return id_of_mask, segments
