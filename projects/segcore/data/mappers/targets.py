"""Targets of mask classification: one class and one binary mask a segment."""

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
    return make_instances(classes, semantic_map == classes[:, None, None])


def panoptic_targets(id_map: Tensor, segments_info: list[dict]) -> Instances:
    """One bool mask for every segment that is not a crowd.

    Args:
        id_map: (H, W) int32 segment ids.
        segments_info: dicts with ``id``, contiguous ``category_id`` and perhaps ``iscrowd``. A
            segment without a pixel in the map keeps its class, with an empty mask.
    """
    segments = [segment for segment in segments_info if not segment.get("iscrowd", 0)]
    ids = torch.tensor([segment["id"] for segment in segments], dtype=id_map.dtype)
    classes = [segment["category_id"] for segment in segments]
    return make_instances(classes, id_map == ids[:, None, None])
