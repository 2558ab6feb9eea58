"""Targets of a batch: things with classes and boxes, and stuff."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

Targets = Sequence[Mapping[str, Any]]
"""A dict an image:

* "labels" (n,) int64 in [0, K_things), "boxes" (n, 4) as (center x, center y, width, height) in
  units of the image without padding, "masks" (n, H, W), boolean, with padding;
* "stuff_labels" (m,) int64 in [0, K_stuff), of a class one at most, "stuff_masks" (m, H, W);
* "image_size" (h, w) in pixels, without padding.
"""


@dataclass(frozen=True)
class Things:
    """The N things of all images of a batch, one image after the other.

    Attributes:
        labels: (N,) int64.
        boxes: (N, 4) as (center x, center y, width, height), or centers of mass (N, 2), in units
            of the image without padding.
        scale: (N, 4), image width, height, width, height in pixels.
        image: (N,) int64, index of the image.
        counts: things of each image.
    """

    labels: Tensor
    boxes: Tensor
    scale: Tensor
    image: Tensor
    counts: list[int]

    @classmethod
    def from_targets(cls, targets: Targets, predicted: Tensor) -> "Things":
        """Collect the things of ``targets``.

        Args:
            predicted: boxes (..., 4) or centers (..., 2), at least float32; its last dimension and
                type decide those of ``boxes``.
        """
        counts = [len(target["labels"]) for target in targets]
        image = image_indices(counts, predicted.device)
        sizes = predicted.new_tensor([target["image_size"][::-1] for target in targets])
        boxes = [target["boxes"].to(predicted) for target in targets]
        if predicted.shape[-1] == 2:
            boxes = [
                centers_of_mass(target["masks"], target["image_size"], target_boxes[:, :2])
                for target, target_boxes in zip(targets, boxes, strict=True)
            ]
        return cls(
            labels=torch.cat([target["labels"] for target in targets]),
            boxes=torch.cat(boxes),
            scale=sizes.repeat(1, 2)[image],
            image=image,
            counts=counts,
        )


class Stuff(NamedTuple):
    """The M stuff segments of all images of a batch: index of the image and class, int64 (M,)."""

    image: Tensor
    labels: Tensor

    @classmethod
    def from_targets(cls, targets: Targets) -> "Stuff":
        """Collect the stuff segments of ``targets``."""
        labels = [target["stuff_labels"] for target in targets]
        counts = [len(part) for part in labels]
        return cls(image_indices(counts, labels[0].device), torch.cat(labels))


def image_indices(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return each i repeated ``counts[i]`` times: int64 (sum of ``counts``,)."""
    indices = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(indices).to(device, non_blocking=True)


def centers_of_mass(masks: Tensor, image_size: tuple[int, int], fallback: Tensor) -> Tensor:
    """Return centers of mass (x, y) of masks, in units of the image without padding.

    Args:
        masks: (n, H, W), boolean, of the image with padding.
        image_size: (h, w) without padding.
        fallback: (n, 2), the centers of empty masks; the result has its type.
    """
    moments = []
    for size, along in zip(reversed(image_size), (1, 2), strict=True):
        profile = masks.sum(along).to(fallback)
        position = torch.arange(profile.shape[1], device=profile.device) + 0.5
        moments.append(profile @ position.to(fallback) / size)
    area = profile.sum(1)[:, None]
    return torch.where(area > 0, torch.stack(moments, dim=1) / area.clamp(min=1), fallback)


def pixel_boxes(boxes: Tensor, scale: Tensor) -> Tensor:
    """Boxes (..., 4) as in :class:`Things` -> (x0, y0, x1, y1) in pixels."""
    return box_convert(boxes, "cxcywh", "xyxy") * scale


def check_targets(targets: Targets, batch: int) -> None:
    """Check that ``targets`` are of ``batch`` images and that their shapes agree.

    Raises:
        ValueError: otherwise.
    """
    if len(targets) != batch:
        raise ValueError(f"targets: expected one of each of {batch} images, got {len(targets)}")
    sizes = {
        tuple(target[name].shape[-2:]) for target in targets for name in ("masks", "stuff_masks")
    }
    if len(sizes) > 1:
        raise ValueError(f"masks of all images: expected one (padded) size, got {sorted(sizes)}")
    for image, target in enumerate(targets):
        for labels, *others in (("labels", "boxes", "masks"), ("stuff_labels", "stuff_masks")):
            for name in others:
                if len(target[name]) != len(target[labels]):
                    raise ValueError(
                        f"targets of image {image} of the batch: expected as many {name} as"
                        f" {labels}, got {len(target[name])} and {len(target[labels])}"
                    )
