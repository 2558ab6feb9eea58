"""Results of any kind of model as one map of segments."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Instances

from segcore.inference.coco import at_least
from segcore.inference.segments import PanopticResult


def panoptic_of(result: Mapping[str, Any], threshold: float) -> PanopticResult:
    """Return the panoptic result; instances or classes as one, if there is none.

    Args:
        result: of :meth:`segcore.Predictor.predict_compact`.
        threshold: least score of instances.
    """
    if "panoptic_seg" in result:
        return result["panoptic_seg"]
    if "instances" in result:
        return _painted(at_least(result["instances"], threshold))
    return _stuff_of(result["semantic_map"])


def _painted(instances: Instances) -> PanopticResult:
    """Paint instances into a map, those of higher score over others."""
    ids = np.zeros(instances.image_size, np.int32)
    scores, labels = instances.scores.tolist(), instances.pred_classes.tolist()
    for index in np.argsort(scores, kind="stable").tolist():
        ids[mask_util.decode(instances.pred_masks_rle[index]).view(bool)] = index + 1
    visible = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    segments = [
        {"id": number, "category_id": label, "isthing": True, "score": score}
        for number, (label, score) in enumerate(zip(labels, scores, strict=True), start=1)
        if visible[number]
    ]
    return torch.from_numpy(ids), segments


def _stuff_of(labels: torch.Tensor) -> PanopticResult:
    """Return the classes (H, W) of a photo as segments of stuff."""
    ids = labels.int() + 1
    return ids, [
        {"id": number, "category_id": number - 1, "isthing": False}
        for number in ids.unique().tolist()
    ]
