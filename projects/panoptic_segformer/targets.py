"""Training targets: the annotated things and stuff of images, in the classes of the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import box_convert

from panoptic_segformer.class_order import ClassOrder
from panoptic_segformer.padding import Size
from segcore.functional import masks_to_boxes
from segcore.layers import pad_to
from segcore.meta_arch import checked_target, image_name


@dataclass(frozen=True)
class Target:
    """The n things and m stuff classes of one image.

    Attributes:
        labels: (n,) int64 in [0, K_things).
        boxes: (n, 4) as (center x, center y, width, height), relative to the image; float32 at
            least.
        masks: (n, H, W) bool.
        stuff_labels: (m,) int64 in [0, K_stuff), each once.
        stuff_masks: (m, H, W) bool.
        image_size: (height, width) in pixels.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    stuff_labels: Tensor
    stuff_masks: Tensor
    image_size: Size

    @classmethod
    def from_annotations(
        cls, inputs: dict[str, Any], order: ClassOrder, dtype: torch.dtype = torch.float32
    ) -> "Target":
        """Translate the annotations of one image in Detectron2's format.

        Args:
            inputs: "image" (C, H, W) and "instances" with gt_classes (contiguous ids), gt_masks
                and, where known, gt_boxes; else the boxes are those of the masks.
            dtype: of the network.

        Raises:
            ValueError: see :func:`checked_target`; boxes that do not fit the masks.
        """
        target = checked_target(inputs, len(order.index), order.index.device)
        labels, masks = target["labels"], target["masks"]
        height, width = masks.shape[-2:]
        boxes = box_convert(_boxes(inputs, masks), "xyxy", "cxcywh")
        boxes = boxes.to(order.index.device, torch.promote_types(dtype, torch.float32))
        boxes = boxes / boxes.new_tensor([width, height, width, height])
        is_thing = order.is_thing[labels]
        labels = order.index[labels]
        return cls(
            labels[is_thing],
            boxes[is_thing],
            masks[is_thing],
            *_one_mask_a_class(labels[~is_thing], masks[~is_thing]),
            (height, width),
        )


@dataclass(frozen=True)
class Things:
    """The N things of a batch, one image after the other.

    Attributes:
        labels, boxes: (N,) and (N, 4), as in :class:`Target`.
        masks: of each image (n, H, W), padded to the size of the batch.
        image: (N,) int64, index of the image.
        counts: things of each image.
        scale: (N, 4), width, height, width, height of the image in pixels.
    """

    labels: Tensor
    boxes: Tensor
    masks: list[Tensor]
    image: Tensor
    counts: list[int]
    scale: Tensor


@dataclass(frozen=True)
class Stuff:
    """The M stuff classes of the images of a batch, one image after the other.

    Attributes:
        labels: (M,), as in :class:`Target`.
        masks: of each image (m, H, W), padded to the size of the batch.
        image: (M,) int64, index of the image.
    """

    labels: Tensor
    masks: list[Tensor]
    image: Tensor


class Targets(NamedTuple):
    """Things and stuff of a batch."""

    things: Things
    stuff: Stuff

    @classmethod
    def from_annotations(
        cls,
        batched_inputs: Sequence[dict[str, Any]],
        order: ClassOrder,
        padded_size: Size,
        dtype: torch.dtype = torch.float32,
    ) -> "Targets":
        """Translate the annotations of images, see :meth:`Target.from_annotations`."""
        targets = [Target.from_annotations(inputs, order, dtype) for inputs in batched_inputs]
        return cls.collect(targets, padded_size)

    @classmethod
    def collect(cls, targets: Sequence[Target], padded_size: Size) -> "Targets":
        """Join the targets of images; their masks are padded to one size (H, W)."""
        counts = [len(target.labels) for target in targets]
        stuff_counts = [len(target.stuff_labels) for target in targets]
        boxes = torch.cat([target.boxes for target in targets])
        sizes = boxes.new_tensor([target.image_size[::-1] for target in targets])
        image = _image_indices(counts, boxes.device)
        things = Things(
            torch.cat([target.labels for target in targets]),
            boxes,
            [pad_to(target.masks, padded_size) for target in targets],
            image,
            counts,
            sizes.repeat(1, 2)[image],
        )
        stuff = Stuff(
            torch.cat([target.stuff_labels for target in targets]),
            [pad_to(target.stuff_masks, padded_size) for target in targets],
            _image_indices(stuff_counts, boxes.device),
        )
        return cls(things, stuff)


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


def _image_indices(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return each i repeated ``counts[i]`` times: int64 (sum of ``counts``,)."""
    indices = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(indices).to(device, non_blocking=True)
