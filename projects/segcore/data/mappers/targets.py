"""Targets of mask classification: one class and one binary mask a segment."""

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor


def make_instances(classes: list[int] | Tensor, masks: Tensor) -> Instances:
    """Instances with gt_classes int64 (n,) and gt_masks (n, H, W), bool or uint8 as given."""
    if masks.dtype == torch.bool and len(masks) == 0:
        masks = masks.to(torch.float32)  # as the official mappers emit no targets
    instances = Instances(tuple(masks.shape[-2:]))
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    instances.gt_masks = masks
    return instances


def semantic_targets(semantic_map: Tensor, ignore_label: int) -> Instances:
    """One bool mask for every class of an int64 map (H, W) except ``ignore_label``."""
    classes = torch.bincount(semantic_map.flatten()).nonzero().flatten()
    classes = classes[classes != ignore_label]
    return make_instances(classes, masks_of(semantic_map, classes.tolist()))


def panoptic_targets(id_map: Tensor, segments_info: list[dict]) -> Instances:
    """One bool mask for every segment that is not a crowd.

    Args:
        id_map: (H, W) int32 segment ids.
        segments_info: dicts with ``id``, contiguous ``category_id`` and perhaps ``iscrowd``. A
            segment without a pixel in the map keeps its class, with an empty mask.
    """
    segments = [segment for segment in segments_info if not segment.get("iscrowd", 0)]
    classes = [segment["category_id"] for segment in segments]
    return make_instances(classes, masks_of(id_map, [segment["id"] for segment in segments]))


def masks_of(labels: Tensor, values: list[int]) -> Tensor:
    """Return masks of n ``values`` in integer ``labels`` (H, W): (n, H, W) bool."""
    labels = labels.numpy()  # compares ten times faster than torch does on a CPU
    masks = labels == np.array(values, dtype=labels.dtype)[:, None, None]
    return torch.from_numpy(masks)
