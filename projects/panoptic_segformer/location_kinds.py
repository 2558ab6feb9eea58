"""What the location decoder predicts of a thing: its box, or the center of its mask alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.ops import box_convert

from panoptic_segformer.targets import Things
from segcore.losses import generalized_iou


@dataclass(frozen=True)
class LocationKind(ABC):
    """Coordinates of things, in units of the image without padding.

    ``predicted`` and ``true`` coordinates (..., K) broadcast; ``scale`` is that of :class:`Things`.

    Attributes:
        num_coordinates: K; the first two are the center (x, y).
    """

    num_coordinates: ClassVar[int]
    l1_weight: float = 5.0

    @abstractmethod
    def true(self, things: Things) -> Tensor:
        """Return the coordinates of annotated things: (N, K)."""

    @abstractmethod
    def costs(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Return weighted matching costs by their names: (...) each."""

    @abstractmethod
    def losses(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Return weighted losses by their names: (...) each."""

    @abstractmethod
    def boxes(self, predicted: Tensor) -> Tensor | None:
        """Return boxes (..., 4) as (center x, center y, width, height); None: there are none."""

    def _l1(self, predicted: Tensor, true: Tensor) -> Tensor:
        return self.l1_weight * (predicted - true).abs().sum(-1)


@dataclass(frozen=True)
class BoxLocation(LocationKind):
    """Boxes as (center x, center y, width, height)."""

    num_coordinates = 4
    giou_weight: float = 2.0

    def true(self, things: Things) -> Tensor:
        return things.boxes

    def costs(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        giou = _pixel_giou(predicted, true, scale)
        return {"L1": self._l1(predicted, true), "GIoU": -self.giou_weight * giou}

    def losses(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        giou = _pixel_giou(predicted, true, scale)
        return {"loss_bbox": self._l1(predicted, true), "loss_iou": self.giou_weight * (1 - giou)}

    def boxes(self, predicted: Tensor) -> Tensor:
        return predicted


@dataclass(frozen=True)
class CenterLocation(LocationKind):
    """Centers of mass of the masks, as (x, y); the paper's "box-free" variant."""

    num_coordinates = 2

    def true(self, things: Things) -> Tensor:
        centers = [centers_of_mass(masks, things.boxes.dtype) for masks in things.masks]
        centers = torch.cat(centers) / things.scale[:, :2]
        # A mask may be empty after a crop.
        return torch.where(centers.isnan(), things.boxes[:, :2], centers)

    def costs(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"L1": self._l1(predicted, true)}

    def losses(self, predicted: Tensor, true: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"loss_centre": self._l1(predicted, true)}

    def boxes(self, predicted: Tensor) -> None:
        return None


# The published weights.
BOXES = BoxLocation()


def location_kind_of(panoptic_segformer: CfgNode) -> LocationKind:
    """Return what the config ``MODEL.PANOPTIC_SEGFORMER`` lets the location decoder predict.

    Raises:
        ValueError: LOCATION_TARGET is unknown.
    """
    target, l1_weight = panoptic_segformer.LOCATION_TARGET, panoptic_segformer.L1_WEIGHT
    if target == "box":
        return BoxLocation(l1_weight, panoptic_segformer.GIOU_WEIGHT)
    if target == "centre":
        return CenterLocation(l1_weight)
    if target == "none":
        return CenterLocation(0.0)
    raise ValueError(
        "MODEL.PANOPTIC_SEGFORMER.LOCATION_TARGET: expected 'box', 'centre' or 'none', "
        f"got {target!r}"
    )


def centers_of_mass(masks: Tensor, dtype: torch.dtype) -> Tensor:
    """Return centers of mass of bool masks (n, H, W): (n, 2) as (x, y) in pixels, NaN if empty."""
    moments = []
    for along in (1, 2):
        profile = masks.sum(along).to(dtype)
        position = torch.arange(profile.shape[1], device=profile.device, dtype=dtype) + 0.5
        moments.append(profile @ position)
    return torch.stack(moments, dim=1) / profile.sum(1)[:, None]


def _pixel_giou(predicted: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Generalized IoU in pixels, whose epsilon depends on the unit."""
    return generalized_iou(
        *(box_convert(boxes, "cxcywh", "xyxy") * scale for boxes in (predicted, true))
    )
