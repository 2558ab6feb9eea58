"""Compares semantic, panoptic and instance results with those that a case holds."""

from typing import Any

import numpy as np

from parity.golden import Case, Comparison


def compare_results(
    comparison: Comparison,
    case: Case,
    results: dict[str, Any],
    image: int,
    *,
    tolerance: float,
    scaled: bool,
    prefix: str = "",
) -> None:
    """Compare the ``results`` of image number ``image`` with the arrays named ``prefix...``."""
    arrays = case.arrays
    name = f"{prefix}sem_seg{image}"
    if name in arrays:
        scores = results["sem_seg"]
        comparison.close(name, case.sampled(name, scores), arrays[name], tolerance, scaled=scaled)
        comparison.equal(f"{name}_argmax", scores.argmax(dim=0), arrays[f"{name}_argmax"])

    name = f"{prefix}panoptic{image}"
    if name in arrays:
        panoptic, segments = results["panoptic_seg"]
        comparison.equal(name, panoptic, arrays[name])
        assert segments == case.info["segments_info"][str(image)]

    name = f"{prefix}inst{image}"
    if f"{name}_scores" in arrays:
        instances = results["instances"]
        expected = arrays[f"{name}_scores"]
        comparison.close(f"{name}_scores", instances.scores, expected, tolerance, scaled=scaled)
        ordered = expected > 0  # instances whose score is exactly 0 tie
        areas = instances.pred_masks.sum(dim=(1, 2))
        for key, actual in (("classes", instances.pred_classes), ("areas", areas)):
            key = f"{name}_{key}"
            comparison.equal(key, actual[ordered], arrays[key][ordered])
        masks, key = instances.pred_masks[:5].numpy(), f"{name}_masks_first5_packed"
        expected = case.unpacked(key, masks.shape)
        comparison.equal(key, masks[ordered[:5]], expected[ordered[:5]])
        assert _tight(instances.pred_boxes.tensor.numpy(), instances.pred_masks.numpy())


def _tight(boxes: np.ndarray, masks: np.ndarray) -> bool:
    """Every box holds its whole mask and touches it on all four sides."""
    for (x0, y0, x1, y1), mask in zip(boxes.astype(int), masks, strict=True):
        inside = mask[y0:y1, x0:x1]
        if inside.sum() != mask.sum():
            return False
        if mask.any() and not all(
            side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        ):
            return False
    return True
