"""Results of bounded memory: class and segment maps and run lengths, made window by window.

In each window only those masks are resized that can change the result there. A mask's values in a
window lie between the smallest and the largest of the few values that they are interpolated from,
so that for large photos most masks are decided without a look at their pixels.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from segcore.inference.mask_wise import is_thing, number_scored_segments, per_kind
from segcore.inference.masks import sum_inside
from segcore.inference.merging import PanopticMerging
from segcore.inference.pixel_wise import number_visible
from segcore.inference.prediction import MaskPrediction
from segcore.inference.rating import MaskRating
from segcore.inference.run_lengths import RunLengthEncoder, mask_areas
from segcore.inference.segments import PanopticResult
from segcore.inference.windows import Window

# Approximate temporary memory of one window in bytes.
WINDOW_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
# Temporary values per mask and pixel.
_COPIES = 4
# Share of a semantic score below which a mask is left out.
_NEGLIGIBLE = 1e-10


class EncodedMasks(NamedTuple):
    """Run lengths of binary masks, with the sums and areas that their scores depend on."""

    run_lengths: list[dict[str, Any]]  # COCO's compressed form, n
    sums: Tensor  # (n,) at least float32, of the values inside
    areas: Tensor  # (n,) int64, pixels

    def select(self, rows: Tensor) -> "EncodedMasks":
        """Return the masks of some rows (m,), which may repeat."""
        run_lengths = [self.run_lengths[row] for row in rows.tolist()]
        return EncodedMasks(run_lengths, self.sums[rows], self.areas[rows])


def class_dtype(num_classes: int) -> torch.dtype:
    """Return the type of maps of classes: uint8, or int16 or int32 if there are more."""
    dtypes = (torch.uint8, torch.int16, torch.int32)
    return next(dtype for dtype in dtypes if num_classes - 1 <= torch.iinfo(dtype).max)


def class_map(prediction: MaskPrediction) -> Tensor:
    """Return the class with the largest semantic score at each pixel.

    Returns:
        (H, W) on the CPU, of :func:`class_dtype`.
    """
    resized, weights = prediction.resized, prediction.class_weights
    num_classes = len(weights)
    dtype = class_dtype(num_classes)
    classes = torch.empty(resized.size, dtype=dtype)
    for window in _windows(prediction, len(resized) + num_classes):
        low, high = (bound.clamp(max=1) for bound in _value_bounds(prediction, window))
        least = (weights * low).sum(dim=1).max() * (1 - _slack(weights.dtype))
        most = (weights * high).sum(dim=1) * (1 + _slack(weights.dtype))
        rivals = (~(most < least)).nonzero()[:, 0]  # all of them where there is a NaN
        if len(rivals) == 1:
            classes[window] = int(rivals)
            continue
        relevant = ~(weights[rivals].amax(dim=0) * high <= _NEGLIGIBLE * least)
        scores = _semantic_scores(prediction, window, rivals, relevant.nonzero()[:, 0])
        classes[window] = rivals[scores.max(dim=0).indices].to("cpu", dtype)
    return classes


def encode_masks(prediction: MaskPrediction, masks: Tensor, rating: MaskRating) -> EncodedMasks:
    """Measure the masks with these indices (n,)."""
    resized = prediction.resized
    encoder = RunLengthEncoder(len(masks), resized.size)
    sums = torch.zeros(len(masks), dtype=torch.float64, device=masks.device)
    for window in _windows(prediction, len(masks)):
        high = (
            resized.bounds(window)[1] if rating.of_logits else _value_bounds(prediction, window)[1]
        )
        # Masks with NaN are present, too.
        present = ~(high[masks] <= rating.threshold) | encoder.open_masks(window).to(masks.device)
        present = present.nonzero()[:, 0]
        if len(present) == 0:
            continue
        logits = resized.window(window, masks[present])
        values = prediction.values(logits)
        inside = rating.inside(logits, values)
        sums[present] += sum_inside(values, inside)
        encoder.add(present, inside, window)
    run_lengths = encoder.finish()
    areas = torch.from_numpy(mask_areas(run_lengths)).to(masks.device)
    dtype = torch.promote_types(prediction.masks.dtype, torch.float32)
    return EncodedMasks(run_lengths, sums.to(dtype), areas)


def compact_instances(
    prediction: MaskPrediction, encoded: EncodedMasks, topk: int | None
) -> Instances:
    """Return instances by falling score, on the CPU, with "pred_masks_rle", not "pred_masks".

    Args:
        encoded: the mask of each instance.
        topk: largest number of instances; None for all.
    """
    instances = prediction.instances
    scores = instances.rating.scores(instances.scores, encoded.sums, encoded.areas)
    scores, order = scores.sort(descending=True, stable=True)
    scores, order = scores[:topk], order[:topk]
    run_lengths = encoded.select(order).run_lengths
    boxes = _boxes(run_lengths) if instances.boxes is None else instances.boxes[order].cpu()
    return Instances(
        prediction.resized.size,
        scores=scores.cpu(),
        pred_classes=instances.labels[order].cpu(),
        pred_boxes=Boxes(boxes),
        pred_masks_rle=run_lengths,
    )


def merge_mask_wise(
    prediction: MaskPrediction,
    encoded: EncodedMasks,
    merging: PanopticMerging,
    thing_ids: Collection[int],
) -> PanopticResult:
    """Apply :func:`~segcore.inference.mask_wise.merge_mask_wise` to run lengths.

    Args:
        encoded: the masks of the panoptic candidates.
    """
    masks, labels, scores = prediction.panoptic
    scores = merging.rating.scores(scores, encoded.sums, encoded.areas)
    is_thing_mask = is_thing(labels, thing_ids)
    order = scores.argsort(descending=True, stable=True)
    qualities = per_kind(merging.quality_thresholds, is_thing_mask, scores.dtype)
    order = order[((scores >= qualities) & (encoded.areas > 0))[order]]
    limits = per_kind(merging.overlap_thresholds, is_thing_mask[order], torch.float64).tolist()
    taken, selected = None, []
    for mask, limit in zip(order.tolist(), limits, strict=True):
        run_lengths, area = encoded.run_lengths[mask], int(encoded.areas[mask])
        overlap = 0
        if taken is not None:
            overlap = int(mask_util.area(mask_util.merge([run_lengths, taken], intersect=True)))
        selected.append(overlap / area <= limit and overlap < area)
        if selected[-1]:
            taken = run_lengths if taken is None else mask_util.merge([taken, run_lengths])
    mask_ids, segments = number_scored_segments(
        labels[order].tolist(), selected, scores[order].tolist(), thing_ids
    )
    ids = [segment_id for segment_id in mask_ids if segment_id]
    selected = torch.tensor(selected, dtype=torch.bool, device=masks.device)
    return _paint(prediction, masks[order][selected], ids, merging.rating), segments


def merge_pixel_wise(
    prediction: MaskPrediction,
    merging: PanopticMerging,
    thing_ids: Collection[int],
    *,
    with_scores: bool,
) -> PanopticResult:
    """Apply :func:`~segcore.inference.pixel_wise.merge_pixel_wise` window by window.

    Args:
        with_scores: give each segment the mean semantic score of its class, at most 1.
    """
    masks, labels, scores = prediction.panoptic
    resized, threshold = prediction.resized, merging.mask_threshold
    ids = torch.zeros(resized.size, dtype=torch.int32)
    count = len(masks)
    if count == 0:
        return ids, []
    won = torch.zeros((count, 3), dtype=torch.int64, device=masks.device)
    sums = torch.zeros(count, dtype=torch.float64, device=masks.device)
    slack = _slack(scores.dtype)
    for window in _windows(prediction, count):
        low, high = (bound[masks] for bound in _value_bounds(prediction, window))
        least = (low.clamp(max=1) * scores).max() * (1 - slack)
        rivals = ~(high.clamp(max=1) * scores * (1 + slack) < least)  # all where there is a NaN
        full = low >= threshold
        looked_at = rivals | (~full & (high >= threshold))
        won[:, 2] += full * ~looked_at * window.num_pixels
        looked_at = looked_at.nonzero()[:, 0]
        values = prediction.values(resized.window(window, masks[looked_at]))
        winner = (values.clamp(max=1) * scores[looked_at, None, None]).max(dim=0).indices
        inside = values >= threshold
        foreground = inside.gather(0, winner[None])[0]
        won[looked_at, 2] += inside.flatten(1).sum(dim=1)
        winner = looked_at[winner]
        # Pixels won outside and inside of the winning mask.
        here = torch.bincount((winner * 2 + foreground).flatten(), minlength=2 * count)
        here = here.view(count, 2)
        won[:, :2] += here
        if with_scores and here[:, 1].any():
            sums += _sum_semantic_scores(prediction, window, winner, foreground, labels, here[:, 1])
        ids[window] = ((winner + 1) * foreground).to("cpu", torch.int32)

    share = merging.min_visible_share if merging.strategy == "mask2former" else 0.0
    mask_ids, segments = number_visible(labels, won, share, thing_ids)
    if with_scores:
        total = torch.zeros(len(segments) + 1, dtype=torch.float64)
        pixels = torch.zeros_like(total)
        index = torch.tensor(mask_ids)
        total.index_add_(0, index, sums.cpu())
        pixels.index_add_(0, index, won[:, 1].cpu().double())
        for segment, score in zip(
            segments, (total / pixels)[1:].clamp(max=1).tolist(), strict=True
        ):
            segment["score"] = score
    lookup = torch.tensor([0, *mask_ids], dtype=torch.int32)
    for row in ids.split(max(1, window_bytes(ids.device) // (8 * ids.shape[1]))):
        row.copy_(lookup[row.long()])
    return ids, segments


def window_bytes(device: torch.device) -> int:
    """Return the temporary memory of one window on a device."""
    return WINDOW_BYTES.get(device.type, WINDOW_BYTES["cuda"])


def _windows(prediction: MaskPrediction, count: int) -> Iterator[Window]:
    """Yield windows of the image for which ``count`` maps fit into the temporary memory."""
    masks = prediction.masks
    bytes_per_pixel = max(1, count) * _COPIES * max(4, masks.element_size())
    return prediction.resized.windows(bytes_per_pixel, window_bytes(masks.device))


def _slack(dtype: torch.dtype) -> float:
    """Return a bound of the relative rounding error of bounds and of values."""
    return 16 * torch.finfo(dtype).eps


def _value_bounds(prediction: MaskPrediction, window: Window) -> tuple[Tensor, Tensor]:
    """Return bounds (N,) of the values of all masks in a window, at least float32."""
    low, high = prediction.resized.bounds(window)
    slack = _slack(low.dtype)
    dtype = torch.promote_types(low.dtype, torch.float32)
    low, high = (prediction.activation(bound).to(dtype) for bound in (low, high))
    return low * (1 - slack), high * (1 + slack)


def _semantic_scores(
    prediction: MaskPrediction, window: Window, classes: Tensor, masks: Tensor
) -> Tensor:
    """Return semantic scores (classes, rows, columns) in a window, summed over these masks."""
    weights = prediction.class_weights[classes[:, None], masks]

    def scores(logits: Tensor) -> Tensor:
        values = prediction.values(logits).clamp(max=1)
        return (weights @ values.flatten(1)).unflatten(1, values.shape[1:])

    if prediction.resize_scores:
        return prediction.resized.window(window, masks, before_last_step=scores)
    return scores(prediction.resized.window(window, masks))


def _sum_semantic_scores(
    prediction: MaskPrediction,
    window: Window,
    winner: Tensor,
    foreground: Tensor,
    labels: Tensor,
    counts: Tensor,
) -> Tensor:
    """Sum the semantic scores of each winner's class over the pixels that it won: (n,).

    Args:
        winner: (rows, columns) int64 in [0, n).
        foreground: (rows, columns) bool, pixels that count.
        labels: (n,) classes.
        counts: (n,) pixels that count.
    """
    classes, index = labels.unique(return_inverse=True)
    present = index[counts > 0].unique()
    classes = classes[present]
    position = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    position[present] = torch.arange(len(present), device=labels.device)
    high = _value_bounds(prediction, window)[1].clamp(max=1)
    shares = prediction.class_weights[classes].amax(dim=0) * high
    masks = (shares > _NEGLIGIBLE).nonzero()[:, 0]
    scores = _semantic_scores(prediction, window, classes, masks)
    pixels = winner[foreground]
    scores = scores[:, foreground].gather(0, position[index[pixels]][None])[0]
    return torch.bincount(pixels, weights=scores.double(), minlength=len(labels))


def _paint(
    prediction: MaskPrediction, masks: Tensor, ids: Sequence[int], rating: MaskRating
) -> Tensor:
    """Return a map (H, W) int32 with the id of the first mask at each pixel, 0 for none."""
    resized = prediction.resized
    panoptic = torch.zeros(resized.size, dtype=torch.int32)
    # The first mask has the largest rank.
    ranks = torch.arange(len(masks), 0, -1, dtype=torch.int16, device=masks.device)
    lookup = torch.tensor([0, *reversed(ids)], dtype=torch.int32, device=masks.device)
    for window in _windows(prediction, len(masks)):
        present = ~(_value_bounds(prediction, window)[1][masks] <= rating.threshold)
        present = present.nonzero()[:, 0]
        if len(present) == 0:
            continue
        logits = resized.window(window, masks[present])
        inside = rating.inside(logits, prediction.values(logits))
        rank = (inside * ranks[present, None, None]).amax(dim=0)
        panoptic[window] = lookup[rank.long()].cpu()
    return panoptic


def _boxes(masks: list[dict[str, Any]]) -> Tensor:
    """Return tight boxes (n, 4) of run lengths, float32 (x0, y0, x1, y1); 0 for an empty mask."""
    if not masks:
        return torch.zeros((0, 4))
    boxes = mask_util.toBbox(masks)
    boxes[:, 2:] += boxes[:, :2]
    return torch.from_numpy(boxes).to(torch.float32)
