"""What semantic, instance and panoptic results are made of, in one pass over the pixels."""

import torch
from torch import Tensor

from segcore.functional import masks_to_boxes
from segcore.host_memory import LARGE_BYTES, return_freed_memory
from segcore.inference.pixel_wise import PixelWiseMerge
from segcore.inference.prediction import MaskPrediction, PanopticPrediction, identity
from segcore.inference.rating import MaskRating, MeasuredWindows
from segcore.inference.semantic import semantic_inference
from segcore.inference.windows import row_windows
from segcore.ops import MaskInference, mask_inference
from segcore.ops._library import has_kernel

# Pixels of all masks that are computed at a time, so that they stay in a CPU's cache.
_PIXELS = 1 << 14


def infer_masks(
    prediction: MaskPrediction,
    *,
    semantic: bool = False,
    candidates: PanopticPrediction | None = None,
    mask_threshold: float = 0.5,
    measured: Tensor | None = None,
    rating: MaskRating | None = None,
) -> MaskInference:
    """Make what the results of an image need, without all masks at the size of the results.

    Args:
        semantic: whether class scores are wanted; otherwise there are none, (0, H, W).
        candidates: masks that compete for the pixels; None: none.
        mask_threshold: pixels of a candidate with at least this value are inside of it.
        measured: (m,) indices of the masks to measure, each once; None: none.
        rating: rule for them.
    """
    none = torch.empty(0, dtype=torch.int64, device=prediction.device)
    if candidates is None:
        candidates = PanopticPrediction(none, none, prediction.class_weights.new_empty(0))
    measured = none if measured is None else measured
    rating = rating or MaskRating(mask_threshold)
    weights = prediction.class_weights if semantic else prediction.class_weights[:0]
    if semantic and has_large_scores(prediction):
        return_freed_memory()
    if not is_served(prediction):
        return _by_windows(prediction, weights, candidates, mask_threshold, measured, rating)
    resized = prediction.resized
    results = mask_inference(
        resized.masks,
        resized.steps,
        weights,
        candidates.masks,
        candidates.scores,
        measured,
        sigmoid=prediction.activation is Tensor.sigmoid,
        candidate_threshold=mask_threshold,
        measured_threshold=rating.threshold,
        of_logits=rating.of_logits,
    )
    return MaskInference(*results)


def has_large_scores(prediction: MaskPrediction) -> bool:
    """Return whether class scores would be most of the memory that a CPU's process has."""
    height, width = prediction.resized.size
    numbers = len(prediction.class_weights) * height * width
    return prediction.device.type == "cpu" and numbers * prediction.masks.itemsize >= LARGE_BYTES


def is_served(prediction: MaskPrediction) -> bool:
    """Return whether the operator has a kernel for these masks."""
    return (
        has_kernel("mask_inference", prediction.device.type)
        and prediction.masks.dtype in (torch.float32, torch.float64)
        and prediction.activation in (Tensor.sigmoid, identity)
    )


def _by_windows(
    prediction: MaskPrediction,
    weights: Tensor,
    candidates: PanopticPrediction,
    mask_threshold: float,
    measured: Tensor,
    rating: MaskRating,
) -> MaskInference:
    """Apply :func:`infer_masks` window by window: what is computed of one stays in the cache."""
    resized, dtype = prediction.resized, prediction.masks.dtype
    class_scores = prediction.masks.new_empty((len(weights), *resized.size))
    merge = PixelWiseMerge(candidates.scores, resized.size, mask_threshold)
    measure = MeasuredWindows(measured, resized.size, rating, dtype)
    for window in row_windows(resized.size, _PIXELS):
        logits = resized.window(window)
        values = prediction.values(logits)
        if len(weights):
            semantic_inference(weights, values, identity, out=class_scores[:, window.rows])
        if len(measured):
            measure.add(window, logits, values)
        merge.add(window, values[candidates.masks])
    binary, sums, areas = measure.result()
    boxes = masks_to_boxes(binary)
    return MaskInference(class_scores, merge.best, merge.won, binary, sums, areas, boxes)
