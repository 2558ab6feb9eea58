"""Semantic, panoptic and instance inference from masks of low resolution, in one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dims, check_floating, check_indices, check_same_device, check_shape
from ._operator import operator

VALUE_TYPES = (torch.float32, torch.float64)


class Arguments(NamedTuple):
    """Checked arguments, types of weights and scores those of the masks."""

    masks: Tensor
    sizes: list[int]
    sigmoid: bool
    class_weights: Tensor
    candidates: Tensor
    candidate_scores: Tensor
    candidate_threshold: float
    measured: Tensor
    measured_threshold: float
    of_logits: bool


class MaskInference(NamedTuple):
    """Results of :func:`mask_inference`, of size (H, W)."""

    class_scores: Tensor  # (K, H, W), type of the masks
    best: Tensor  # (H, W) int32, number of the winning candidate from 1; 0 outside of its mask
    won: Tensor  # (n, 3) int64, pixels won outside and inside of the mask, and area of the mask
    binary: Tensor  # (m, H, W) bool
    sums: Tensor  # (m,) of the values inside, type of the masks
    areas: Tensor  # (m,) int64
    boxes: Tensor  # (m, 4) float32, tight (x0, y0, x1, y1); 0 for an empty mask


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and last position of bool (m, L) plus one; 0 where there is none."""
    position = torch.arange(occupied.shape[1], device=occupied.device)
    end = ((position + 1) * occupied).amax(1)
    start = torch.where(occupied, position, occupied.shape[1]).amin(1)
    return start.minimum(end), end


def _infer(a: Arguments) -> MaskInference:
    logits = a.masks
    for height, width, *size in torch.tensor(a.sizes).view(-1, 4).tolist():
        part = logits[:, None, :height, :width]
        logits = F.interpolate(part, size=size, mode="bilinear", align_corners=False)[:, 0]
    values = logits.sigmoid() if a.sigmoid else logits
    limited = values.clamp(max=1)
    class_scores = (a.class_weights @ limited.flatten(1)).unflatten(1, values.shape[1:])

    count = len(a.candidates)
    best = torch.zeros(values.shape[1:], dtype=torch.int32, device=values.device)
    won = torch.zeros((count, 3), dtype=torch.int64, device=values.device)
    if count:
        weighted = limited[a.candidates] * a.candidate_scores[:, None, None]
        winner = weighted.max(dim=0).indices
        inside = values[a.candidates] >= a.candidate_threshold
        foreground = inside.gather(0, winner[None])[0]
        pixels = torch.bincount((2 * winner + foreground).flatten(), minlength=2 * count)
        won = torch.cat((pixels.view(count, 2), inside.sum((1, 2))[:, None]), dim=1)
        best = ((winner + 1) * foreground).to(torch.int32)

    values = values[a.measured]
    binary = (logits[a.measured] if a.of_logits else values) > a.measured_threshold
    (left, right), (top, bottom) = _extent(binary.any(1)), _extent(binary.any(2))
    return MaskInference(
        class_scores,
        best,
        won,
        binary,
        torch.where(binary, values, 0).sum((1, 2)),
        binary.sum((1, 2)),
        torch.stack((left, top, right, bottom), dim=1).float(),
    )


def _fake(a: Arguments) -> MaskInference:
    size = tuple(a.sizes[-2:]) or a.masks.shape[1:]
    count, new = len(a.measured), a.masks.new_empty
    return MaskInference(
        new((len(a.class_weights), *size)),
        new(size, dtype=torch.int32),
        new((len(a.candidates), 3), dtype=torch.int64),
        new((count, *size), dtype=torch.bool),
        new(count),
        new(count, dtype=torch.int64),
        new((count, 4), dtype=torch.float32),
    )


@operator(Arguments, reference=_infer, fake=_fake, cpu_only=True)
def mask_inference(
    masks: Tensor,
    steps: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    class_weights: Tensor,
    candidates: Tensor,
    candidate_scores: Tensor,
    measured: Tensor,
    *,
    sigmoid: bool = True,
    candidate_threshold: float = 0.5,
    measured_threshold: float = 0.0,
    of_logits: bool = True,
) -> Arguments:
    """Resize masks and make of them all that the results of an image need, tile by tile.

    Inference of MaskFormer (section 3.4): class scores are sums of class weight times mask value,
    and each pixel goes to the candidate with the largest score times value. Masks are measured for
    the scores of instances. Values above 1 count as 1 in the first two. No gradient.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`mask_inference_reference`, which holds all masks at the size of the results.

    Args:
        masks: (N, h, w) logits, or values from 0; float32 or float64
        steps: bilinear interpolations (align_corners False), one after the other: the size of the
            upper left part that is resized, and the size that it gets; none: masks stay as they are
        class_weights: (K, N)
        candidates: (n,) integers, masks that compete for the pixels
        candidate_scores: (n,)
        measured: (m,) integers, masks to measure, each once
        sigmoid: whether values are sigmoids of ``masks``, or ``masks`` themselves
        candidate_threshold: pixels of a candidate with at least this value are inside of it
        measured_threshold: pixels of a measured mask with a larger value are inside of it
        of_logits: whether ``measured_threshold`` is for ``masks``, not for values

    Returns:
        :class:`MaskInference`

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, device or size
    """
    check_floating("masks", masks)
    if masks.dtype not in VALUE_TYPES:
        raise TypeError(f"masks: expected float32 or float64, got {masks.dtype}")
    check_dims("masks", masks, ("N", "h", "w"))
    check_floating("class_weights", class_weights)
    check_dims("class_weights", class_weights, ("K", "N"))
    check_shape("class_weights", class_weights, (len(class_weights), len(masks)))
    for name, indices in (("candidates", candidates), ("measured", measured)):
        check_indices(name, indices)
        check_dims(name, indices, ("n",))
    check_floating("candidate_scores", candidate_scores)
    check_shape("candidate_scores", candidate_scores, (len(candidates),))
    check_same_device(
        masks=masks,
        class_weights=class_weights,
        candidates=candidates,
        candidate_scores=candidate_scores,
        measured=measured,
    )
    size = tuple(masks.shape[1:])
    for part, output in steps:
        if not all(1 <= side <= whole for side, whole in zip(part, size, strict=True)):
            raise ValueError(f"steps: expected a part of {size}, got {part}")
        if min(output) < 1:
            raise ValueError(f"steps: expected sizes of at least 1, got {output}")
        size = tuple(output)
    return Arguments(
        masks.detach(),
        [side for step in steps for part in step for side in part],
        sigmoid,
        class_weights.detach().to(masks.dtype),
        candidates.long(),
        candidate_scores.detach().to(masks.dtype),
        candidate_threshold,
        measured.long(),
        measured_threshold,
        of_logits,
    )


mask_inference_reference = mask_inference.reference
