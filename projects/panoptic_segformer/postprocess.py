"""Predictions of masks from the outputs of the decoders for one image."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.ops import box_convert

from segcore.functional import at_least_float32
from segcore.inference import (
    InstancePrediction,
    MaskPrediction,
    PanopticMerging,
    PanopticPrediction,
    ResultMaker,
    identity,
    is_thing,
)

DEFAULT_MERGING = PanopticMerging("mask_wise")


class Detections(NamedTuple):
    """Output of the network: n things by falling class score, then all stuff classes; N in all.

    Attributes:
        scores: (B, N) class scores in [0, 1].
        labels: (B, N) int64 contiguous ids.
        masks: (B, N, h, w) from 0, without upper bound, used as probabilities.
        locations: (B, n, num_coordinates) of the things, see :class:`LocationKind`.
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor
    locations: Tensor


class ThingChoice(NamedTuple):
    """The detections that go to the thing mask decoder, by falling score."""

    scores: Tensor  # (..., n) class scores in [0, 1]
    labels: Tensor  # (..., n) int64, in the head's order of things
    queries: Tensor  # (..., n) int64; a query may appear with several classes

    def gather(self, values: Tensor) -> Tensor:
        """Return those of the chosen queries: (..., Q, C) -> (..., n, C)."""
        indices = self.queries[..., None].expand(*self.queries.shape, values.shape[-1])
        return values.gather(-2, indices)


def choose_things(logits: Tensor, topk: int) -> ThingChoice:
    """The ``topk`` largest class scores of all queries; all of them where there are fewer.

    Args:
        logits: (..., Q, K) of the last location layer.
    """
    num_classes = logits.shape[-1]
    pairs = logits.sigmoid().flatten(-2)
    scores, pairs = pairs.topk(min(topk, pairs.shape[-1]))
    return ThingChoice(scores, pairs % num_classes, pairs // num_classes)


def build_result_maker(cfg: CfgNode, thing_ids: Collection[int]) -> ResultMaker:
    """Result maker by the keys of the config."""
    test = cfg.MODEL.PANOPTIC_SEGFORMER.TEST
    return ResultMaker(
        PanopticMerging.from_config(cfg, DEFAULT_MERGING.strategy),
        frozenset(thing_ids),
        topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        semantic_on=test.SEMANTIC_ON,
        instance_on=test.INSTANCE_ON,
        panoptic_on=test.PANOPTIC_ON,
    )


def mask_prediction(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    boxes: Tensor | None,
    *,
    output_size: tuple[int, int],
    num_classes: int,
    result_maker: ResultMaker,
) -> MaskPrediction:
    """Things and stuff with one class each; instances are the things, by merged scores.

    Args:
        scores: (N,) class scores of things (:func:`choose_things`) and stuff.
        labels: (N,) int64 contiguous ids of the data set.
        masks: (N, h, w) values of the ReLU masks, which are stretched to the output. Half types
            become float32.
        boxes: of the first n of the N, which all things are among: (n, 4), (cx, cy, w, h) in units
            of the unpadded image; None: boxes of the masks.
        output_size: (height, width) of the results.
        num_classes: K of the data set, things and stuff.
    """
    masks = at_least_float32(masks)
    weights = masks.new_zeros((num_classes, len(masks)))
    weights.scatter_(0, labels[None], scores[None].to(masks.dtype))
    indices = torch.arange(len(masks), device=masks.device)
    thing_masks = is_thing(labels, result_maker.thing_ids)
    return MaskPrediction(
        masks,
        identity,
        (output_size,),
        weights,
        PanopticPrediction(indices, labels, scores),
        InstancePrediction(
            indices[thing_masks],
            labels[thing_masks],
            scores[thing_masks],
            result_maker.merging.rating,
            None
            if boxes is None
            else absolute_boxes(boxes[thing_masks[: len(boxes)]], output_size),
        ),
    )


def absolute_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) as (cx, cy, w, h) relative to an image -> (x0, y0, x1, y1) in its pixels, inside.

    Args:
        size: (height, width) of the image.
    """
    height, width = size
    corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
    return corners * corners.new_tensor([width, height, width, height])
