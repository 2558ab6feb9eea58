"""The list of segments that belongs to a panoptic map."""

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

PanopticResult = tuple[Tensor, list[dict[str, Any]]]


def number_segments(
    labels: Iterable[int], selected: Iterable[bool], thing_ids: Collection[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Assign segment ids to the selected masks, one id to all masks of a stuff class.

    Args:
        labels: class of each mask.
        selected: True for masks with pixels in the map.
        thing_ids: classes that are things.

    Returns:
        The segment id of each mask, 0 for those left out, and "segments_info" of Detectron2: for
        each segment {"id": int, "isthing": bool, "category_id": int}, ids 1, 2, ... in order.
    """
    thing_classes = frozenset(thing_ids)
    mask_ids, stuff_ids, segments = [], {}, []
    for label, is_selected in zip(labels, selected, strict=True):
        if not is_selected:
            mask_ids.append(0)
        elif label in stuff_ids:
            mask_ids.append(stuff_ids[label])
        else:
            segment_id, isthing = len(segments) + 1, label in thing_classes
            mask_ids.append(segment_id)
            segments.append({"id": segment_id, "isthing": isthing, "category_id": label})
            if not isthing:
                stuff_ids[label] = segment_id
    return mask_ids, segments
