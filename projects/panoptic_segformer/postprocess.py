"""From the decoders' outputs for one image to segmentation results (sections 9 and 19)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.ops import box_convert

from segcore.inference import (
    PanopticMerging,
    bilinear,
    is_thing,
    masks_to_boxes,
    semantic_scores,
    sorted_instances,
)

OWN_MERGING = PanopticMerging("mask_wise")


class ThingChoice(NamedTuple):
    """The detections that go to the thing mask decoder, by falling score."""

    scores: Tensor  # (..., n) class scores in [0, 1]
    labels: Tensor  # (..., n) int64, in the head's order of things
    queries: Tensor  # (..., n) int64; a query may appear with several classes


def choose_things(logits: Tensor, topk: int) -> ThingChoice:
    """The ``topk`` largest class scores of all queries; all of them where there are fewer.

    Args:
        logits: (..., Q, K) of the last location layer.
    """
    num_classes = logits.shape[-1]
    pairs = logits.sigmoid().flatten(-2)
    scores, pairs = pairs.topk(min(topk, pairs.shape[-1]))
    return ThingChoice(scores, pairs % num_classes, pairs // num_classes)


@dataclass(frozen=True)
class PostProcessor:
    """Makes the results of one image.

    Args:
        num_classes: K of the data set, things and stuff.
        thing_ids: contiguous ids that are things.
        merging: of masks to the panoptic map.
        topk_per_image: number of instances.
        semantic_on, instance_on, panoptic_on: the results wanted.
    """

    num_classes: int
    thing_ids: Collection[int]
    merging: PanopticMerging = OWN_MERGING
    topk_per_image: int = 100
    semantic_on: bool = True
    instance_on: bool = True
    panoptic_on: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode, thing_ids: Collection[int]) -> "PostProcessor":
        segformer = cfg.MODEL.PANOPTIC_SEGFORMER
        return cls(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            thing_ids=thing_ids,
            merging=PanopticMerging.from_config(cfg, OWN_MERGING.strategy),
            topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            semantic_on=segformer.TEST.SEMANTIC_ON,
            instance_on=segformer.TEST.INSTANCE_ON,
            panoptic_on=segformer.TEST.PANOPTIC_ON,
        )

    @torch.no_grad()
    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        masks: Tensor,
        boxes: Tensor | None,
        *,
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """Results in Detectron2's format, those wanted of "sem_seg" (K, H, W), "panoptic_seg" and
        "instances" (scores are merged scores).

        Args:
            scores: (N,) class scores of things (:func:`choose_things`) and stuff.
            labels: (N,) int64 contiguous ids of the data set.
            masks: (N, h, w) values of the ReLU masks, which are stretched to the output.
            boxes: of the things among the N, in order: (n, 4), (cx, cy, w, h) in units of the
                unpadded image; None: boxes of the masks.
            output_size: (height, width) of the results.
        """
        things = is_thing(labels, self.thing_ids)
        if not self.semantic_on:
            needed = self._needed(scores, labels, masks, things)
            boxes = None if boxes is None else boxes[needed[things]]
            scores, labels, masks = scores[needed], labels[needed], masks[needed]
            things = things[needed]
        masks = bilinear(masks, output_size)

        results = {}
        if self.semantic_on:
            results["sem_seg"] = semantic_scores(scores, labels, masks, self.num_classes)
        rated = self.merging.rate(scores, masks) if self.instance_on else None
        if self.panoptic_on:
            results["panoptic_seg"] = self.merging(scores, labels, masks, self.thing_ids, rated)
        if self.instance_on:
            rows = things.nonzero()[:, 0]
            results["instances"] = sorted_instances(
                rated.scores[rows],
                labels[rows],
                rated.binary,
                masks_to_boxes(rated.binary)[rows]
                if boxes is None
                else absolute_boxes(boxes, output_size),
                rows,
                topk=self.topk_per_image,
            )
        return results

    def _needed(self, scores: Tensor, labels: Tensor, masks: Tensor, things: Tensor) -> Tensor:
        """Masks (N,) that can be in a result that is wanted; only they are resized."""
        needed = things & self.instance_on
        if self.panoptic_on and len(masks):
            # Interpolation does not exceed the largest value.
            peaks = masks.amax(dim=(1, 2))
            needed |= self.merging.candidates(scores, labels, self.thing_ids, peaks)
        return needed


def absolute_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) as (cx, cy, w, h) relative to an image -> (x0, y0, x1, y1) in its pixels, inside.

    Args:
        size: (height, width) of the image.
    """
    height, width = size
    corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
    return corners * corners.new_tensor([width, height, width, height])
