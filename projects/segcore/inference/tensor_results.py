"""Results of mask classification in tensors of fixed sizes, batched, without a host in between.

They are those of :class:`segcore.inference.ResultMaker`, in the form that a program can return.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.inference.mask_wise import is_thing
from segcore.inference.merging import PanopticMerging
from segcore.inference.rating import MaskRating


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


def resized(maps: Tensor, padded_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize maps (B, N, h, w) to the padded size (H, W), and cut the padding off."""
    maps = F.interpolate(maps, size=padded_size, mode="bilinear", align_corners=False)
    for dim, side in enumerate(size, -2):
        # A slice would be contiguous or not, two graphs.
        maps = maps.index_select(dim, torch.arange(side, device=maps.device))
    return maps


def semantic_map(probabilities: Tensor, values: Tensor) -> Tensor:
    """Return the class of each pixel, (B, H, W) int64, from class probabilities (B, Q, K+1) and
    mask values (B, Q, H, W)."""
    return torch.einsum("bqk,bqhw->bkhw", probabilities[..., :-1], values).argmax(1)


def panoptic_map(
    probabilities: Tensor, values: Tensor, thing_ids: Collection[int], merging: PanopticMerging
) -> PanopticMap:
    """Merge masks pixel-wise (:func:`segcore.inference.pixel_wise.merge_pixel_wise`).

    Args:
        probabilities: (B, Q, K+1), the last is "no object".
        values: (B, Q, H, W) mask values.
        thing_ids: classes whose segments are instances; the segments of another are one.
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

    ids, first = _number(labels, visible, is_thing(labels, thing_ids))
    panoptic = ids.gather(1, winner.flatten(1)).view_as(winner) * foreground
    return PanopticMap(panoptic, _classes_by_id(labels, ids, first))


def instances(
    probabilities: Tensor,
    mask_logits: Tensor,
    values: Tensor,
    *,
    topk: int,
    rating: MaskRating,
    thing_ids: Collection[int] | None = None,
) -> InstanceMasks:
    """Choose the most probable pairs of query and class (Mask2Former's instances).

    Args:
        mask_logits, values: (B, Q, H, W) logits and their probabilities.
        topk: number of pairs.
        rating: of the masks.
        thing_ids: pairs of other classes score 0. None: all are instances.
    """
    num_classes = probabilities.shape[-1] - 1
    pairs = probabilities[..., :-1].flatten(1)
    scores, index = pairs.topk(min(topk, pairs.shape[1]))
    queries, classes = index // num_classes, index % num_classes
    rows = queries[..., None, None].expand(-1, -1, *values.shape[-2:])
    inside = rating.inside(mask_logits, values)
    areas = inside.flatten(2).sum(-1)
    sums = torch.where(inside, values, 0).flatten(2).sum(-1)
    scores = rating.scores(scores, sums.gather(1, queries), areas.gather(1, queries))
    if thing_ids is not None:
        scores = scores * is_thing(classes, thing_ids)
    return InstanceMasks(inside.gather(1, rows), classes, scores)


def _count(index: Tensor, amount: Tensor, len_of: Tensor) -> Tensor:
    """Sum amounts (B, H, W) by index: (B, Q) int64."""
    return torch.zeros_like(len_of, dtype=torch.int64).scatter_add(
        1, index.flatten(1), amount.flatten(1)
    )


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
