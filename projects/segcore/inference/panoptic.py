"""Panoptic segmentation from mask classification (MaskFormer, section 3.4)."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from segcore.inference.masks import mask_areas


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Merge masks to a map where each pixel belongs to one segment or none.

    A pixel goes to the query with the largest class score times mask probability, if that mask
    probability is at least 0.5. A query is left out, and its pixels stay void, where it keeps less
    than ``overlap_threshold`` of its own mask. Segments of one stuff class are one segment.

    Args:
        class_logits: (Q, K+1), the last entry is "no object".
        mask_logits: (Q, H, W).
        thing_ids: the classes whose segments are instances.
        object_mask_threshold: queries whose best class has no larger probability are left out.
        overlap_threshold: least ratio of the pixels won to the pixels of the query's own mask.

    Returns:
        int32 (H, W) of segment ids, 0 = void, and for each segment
        {"id": int, "isthing": bool, "category_id": int in [0, K)}, ids 1, 2, ... in query order.
    """
    no_object = class_logits.shape[1] - 1
    scores, labels = class_logits.to(mask_logits.dtype).softmax(dim=-1).max(dim=-1)
    kept = ((labels != no_object) & (scores > object_mask_threshold)).nonzero()[:, 0]
    count = len(kept)
    if count == 0:
        return torch.zeros_like(mask_logits[0], dtype=torch.int32), []

    probabilities = mask_logits[kept].sigmoid_()
    own_area = mask_areas(probabilities >= 0.5)
    winner = probabilities.mul_(scores[kept, None, None]).argmax(dim=0)
    foreground = mask_logits.gather(0, kept[winner][None])[0].sigmoid_() >= 0.5
    # Pixels won outside and inside of the winner's own mask.
    won = torch.bincount((winner * 2 + foreground).flatten(), minlength=2 * count).view(count, 2)

    # One copy to the host; what follows is about at most Q numbers.
    table = torch.stack((labels[kept], own_area, won.sum(dim=1), won[:, 1]), dim=1).tolist()
    things = frozenset(thing_ids)
    id_of_query, id_of_stuff, segments = [0] * count, {}, []
    for query, (label, own, assigned, final) in enumerate(table):
        if final == 0 or assigned / own < overlap_threshold:
            continue
        isthing = label in things
        if label in id_of_stuff:
            id_of_query[query] = id_of_stuff[label]
            continue
        id_of_query[query] = len(segments) + 1
        segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
        if not isthing:
            id_of_stuff[label] = len(segments)
    ids = torch.tensor(id_of_query, dtype=torch.int32, device=winner.device)
    return ids[winner] * foreground, segments
