"""Results of mask classification in tensors of fixed sizes, batched, without a host in between.

They are those of :class:`segcore.inference.ResultMaker`, in the form that a program can return.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from segcore.inference import PanopticMerging


class PanopticMap(NamedTuple):
    """Attributes:
    panoptic_map: (B, H, W) int64 segment ids 1, 2, ...; 0 is void.
    segment_classes: (B, Q) int64, the class of segment i at i - 1; -1 after the last.
    """

    panoptic_map: Tensor
    segment_classes: Tensor


class InstanceMasks(NamedTuple):
    """Attributes:
    instance_masks: (B, n, H, W) bool.
    instance_classes: (B, n) int64.
    instance_scores: (B, n), not sorted; 0 where there is none.
    """

    instance_masks: Tensor
    instance_classes: Tensor
    instance_scores: Tensor


def semantic_map(probabilities: Tensor, values: Tensor) -> Tensor:
    """Return the class of each pixel, (B, H, W) int64, from class probabilities (B, Q, K+1) and
    mask values (B, Q, H, W)."""
    return torch.einsum("bqk,bqhw->bkhw", probabilities[..., :-1], values).argmax(1)


def panoptic_map(
    probabilities: Tensor, values: Tensor, is_thing: Tensor, merging: PanopticMerging
) -> PanopticMap:
    """Merge masks pixel-wise (:func:`segcore.inference.pixel_wise.merge_pixel_wise`).

    Args:
        probabilities: (B, Q, K+1), the last is "no object".
        values: (B, Q, H, W) mask values.
        is_thing: (K+1,) bool, or as many as the largest thing class needs.
    """
    no_object = probabilities.shape[-1] - 1
    scores, labels = probabilities.max(-1)
    candidates = (labels != no_object) & (scores > merging.score_threshold)
    weighted = values.clamp(max=1) * scores[..., None, None]
    winner = torch.where(candidates[..., None, None], weighted, -1.0).argmax(1)
    inside = (values >= merging.mask_threshold) & candidates[..., None, None]
    foreground = inside.gather(1, winner[:, None])[:, 0]

    areas = inside.flatten(2).sum(-1)
    total = _count(winner, torch.ones_like(winner), len_of=scores)
    won = _count(winner, foreground.long(), len_of=scores)
    visible = candidates & (won > 0)
    if merging.strategy == "mask2former":
        # As Python divides them; no visible mask has an area of 0.
        share = total.double() / areas.clamp(min=1).double()
        visible &= share >= merging.min_visible_share

    ids, first = _number(labels, visible, _lookup(is_thing, labels))
    panoptic = ids.gather(1, winner.flatten(1)).view_as(winner) * foreground
    return PanopticMap(panoptic, _classes_by_id(labels, ids, first))


def instances(
    probabilities: Tensor,
    mask_logits: Tensor,
    values: Tensor,
    topk: int,
    is_thing: Tensor | None = None,
) -> InstanceMasks:
    """Choose the most probable pairs of query and class (Mask2Former's instances).

    Args:
        mask_logits, values: (B, Q, H, W) logits and their probabilities.
        topk: number of pairs.
        is_thing: (K+1,); pairs of other classes score 0. None: all are instances.
    """
    num_classes = probabilities.shape[-1] - 1
    pairs = probabilities[..., :-1].flatten(1)
    scores, index = pairs.topk(min(topk, pairs.shape[1]))
    queries, classes = index // num_classes, index % num_classes
    rows = queries[..., None, None].expand(-1, -1, *values.shape[-2:])
    inside = mask_logits > 0
    areas = inside.flatten(2).sum(-1)
    quality = torch.where(inside, values, 0).flatten(2).sum(-1) / (areas + 1e-6)
    scores = scores * quality.gather(1, queries)
    if is_thing is not None:
        scores = scores * _lookup(is_thing, classes)
    return InstanceMasks(inside.gather(1, rows), classes, scores)


def _count(index: Tensor, amount: Tensor, len_of: Tensor) -> Tensor:
    """Sum amounts (B, H, W) by index: (B, Q) int64."""
    return torch.zeros_like(len_of, dtype=torch.int64).scatter_add(
        1, index.flatten(1), amount.flatten(1)
    )


def _lookup(is_thing: Tensor, labels: Tensor) -> Tensor:
    known = labels < len(is_thing)
    return is_thing[torch.where(known, labels, 0)] & known


def _number(labels: Tensor, visible: Tensor, thing: Tensor) -> tuple[Tensor, Tensor]:
    """Number visible masks 1, 2, ..., those of a stuff class alike: ids (B, Q) int64, 0 for the
    others, and whether a mask is the first of its segment (B, Q) bool."""
    own = torch.arange(labels.shape[1], device=labels.device)
    same = (labels[:, :, None] == labels[:, None]) & visible[:, None] & ~thing[:, :, None]
    same = same | (own[:, None] == own)
    first_of_segment = same.to(torch.uint8).argmax(-1)
    first = visible & (first_of_segment == own)
    return first.cumsum(1).gather(1, first_of_segment) * visible, first


def _classes_by_id(labels: Tensor, ids: Tensor, first: Tensor) -> Tensor:
    """Put the class of each segment at its id - 1: (B, Q) int64, -1 elsewhere."""
    batch, queries = labels.shape
    classes = labels.new_full((batch, queries + 1), -1)
    position = torch.where(first, ids - 1, queries)
    return classes.scatter(1, position, torch.where(first, labels, -1))[:, :queries]
