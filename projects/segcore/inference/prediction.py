"""Predictions of a network for one image, in the form that all systems share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.inference.rating import MaskRating
from segcore.inference.windows import ResizedMasks, Size

# Elements that the widest CPU kernel computes at a time.
_VECTOR_ELEMENTS = 64


def identity(values: Tensor) -> Tensor:
    """Activation of masks that are values already."""
    return values


class InstancePrediction(NamedTuple):
    """Candidates for instances, n of them.

    Attributes:
        masks: (n,) int64, indices of masks; several may share one.
        labels: (n,) int64.
        scores: (n,) class scores.
        rating: rule for the scores of the masks.
        boxes: (n, 4), absolute (x0, y0, x1, y1); None: tight boxes of the masks.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    rating: MaskRating
    boxes: Tensor | None = None


class PanopticPrediction(NamedTuple):
    """Candidates for segments, n of them.

    Attributes:
        masks: (n,) int64, indices of masks, each once.
        labels: (n,) int64.
        scores: (n,) class scores.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class MaskPrediction:
    """Masks of low resolution, with the classes and scores that the results need.

    Attributes:
        masks: (N, h, w) logits, or values from 0, as the network gives them.
        activation: monotonic function from ``masks`` to values from 0. Values above 1 count as 1,
            except in ratings.
        sizes: padded, image and output size, see ``resize_mask_logits``.
        class_weights: (K, N), the weight of each mask in the semantic score of each class.
        panoptic, instances: candidates for these results.
        resize_scores: semantic scores are computed at the padded size, and then resized.
    """

    masks: Tensor
    activation: Callable[[Tensor], Tensor]
    sizes: tuple[Size, ...]
    class_weights: Tensor
    panoptic: PanopticPrediction
    instances: InstancePrediction
    resize_scores: bool = False

    @cached_property
    def resized(self) -> ResizedMasks:
        """The masks at the size of the results, by windows."""
        return ResizedMasks(self.masks, *self.sizes, small_at_once=not self.resize_scores)

    def values(self, logits: Tensor) -> Tensor:
        """Return the mask values of a window of logits, rounded alike wherever a pixel lies.

        A CPU computes the last elements of a tensor, which do not fill a vector register, by
        another formula; equal masks would no longer tie there.
        """
        missing = -logits.numel() % _VECTOR_ELEMENTS
        padded = F.pad(logits.flatten(), (0, missing)) if missing else logits.flatten()
        return self.activation(padded)[: logits.numel()].view(logits.shape)

    @property
    def device(self) -> torch.device:
        return self.masks.device

    def to(self, device: torch.device | str) -> "MaskPrediction":
        """Return the prediction on another device."""
        panoptic, instances = (
            type(part)(*(x.to(device) if isinstance(x, Tensor) else x for x in part))
            for part in (self.panoptic, self.instances)
        )
        return replace(
            self,
            masks=self.masks.to(device),
            class_weights=self.class_weights.to(device),
            panoptic=panoptic,
            instances=instances,
        )
