"""Targets of an image from its annotations."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import box_convert

from panoptic_segformer.class_order import ClassOrder
from segcore.functional import masks_to_boxes
from segcore.layers import pad_to
from segcore.meta_arch import checked_target, image_name

Target = dict[str, Any]


def make_target(inputs: dict[str, Any], order: ClassOrder, dtype: torch.dtype) -> Target:
    """One of the :obj:`Targets` of the criterion, with masks of the image without padding.

    Args:
        inputs: as Detectron2 has them: "image" (C, H, W) and "instances" with gt_classes
            (contiguous ids), gt_masks and, where known, gt_boxes; else the boxes are of the masks.
        dtype: of the boxes.

    Raises:
        ValueError: see :func:`checked_target`; boxes that do not fit the masks.
    """
    target = checked_target(inputs, len(order.index), order.index.device)
    labels, masks = target["labels"], target["masks"]
    height, width = masks.shape[-2:]
    boxes = box_convert(_boxes(inputs, masks), "xyxy", "cxcywh").to(order.index.device, dtype)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    is_thing = order.is_thing[labels]
    labels = order.index[labels]
    stuff_labels, stuff_masks = _one_mask_a_class(labels[~is_thing], masks[~is_thing])
    return {
        "labels": labels[is_thing],
        "boxes": boxes[is_thing],
        "masks": masks[is_thing],
        "stuff_labels": stuff_labels,
        "stuff_masks": stuff_masks,
        "image_size": (height, width),
    }


def pad_targets(targets: Sequence[Target], size: tuple[int, int]) -> list[Target]:
    """The targets with masks of one ``size``, that of the padded batch."""
    return [
        {**target, **{name: pad_to(target[name], size) for name in ("masks", "stuff_masks")}}
        for target in targets
    ]


def _boxes(inputs: dict[str, Any], masks: Tensor) -> Tensor:
    """(n, 4) as (x0, y0, x1, y1) in pixels."""
    instances = inputs["instances"]
    if not instances.has("gt_boxes"):
        return masks_to_boxes(masks)
    boxes = instances.gt_boxes
    boxes = boxes.tensor if isinstance(boxes, Boxes) else boxes
    if boxes.shape != (len(masks), 4):
        raise ValueError(
            f"image {image_name(inputs)}: gt_boxes: expected shape {(len(masks), 4)}, "
            f"got {tuple(boxes.shape)}"
        )
    return boxes


def _one_mask_a_class(labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (n,), masks (n, H, W) -> each label once, with the union of its masks."""
    unique, inverse = labels.unique(return_inverse=True)
    if len(unique) == len(labels):
        return labels, masks
    union = masks.new_zeros((len(unique), *masks.shape[1:]), dtype=torch.uint8)
    union.index_reduce_(0, inverse, masks.view(torch.uint8), "amax")
    return unique, union.view(torch.bool)
