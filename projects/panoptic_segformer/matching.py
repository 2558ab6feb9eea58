"""Two matchings of thing queries: by class and box, then of the matched ones with masks."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from panoptic_segformer.ground_truth import Things, pixel_boxes
from panoptic_segformer.location_decoder import LocationOutput
from segcore.functional import at_least_float32
from segcore.losses import generalized_iou, pairwise_squared_dice_loss
from segcore.matching import Assignment, assign_by_parts, focal_class_cost

# The second matching weighs the class more than the first.
MASK_MATCHING_CLASS_FACTOR = 2.0
DICE_SMOOTH = 1e-3


class LocationMatch(NamedTuple):
    """Matching of thing queries to things by class and box.

    Attributes:
        things: of the batch.
        assignment: of all layers of the location decoder, over the things of all images.
        matched_queries: of each image, the queries of the last layer's pairs: int64, ascending.
            They alone go into the mask decoder.
        costs: of each image {name: (matched queries, things)}, the last layer's.
    """

    things: Things
    assignment: Assignment
    matched_queries: list[Tensor]
    costs: list[dict[str, Tensor]]


class ThingMatcher:
    """Hungarian matching of thing queries, twice. No gradient; costs are float32 or float64.

    Where an image has more things than there are queries, as many as possible find one.
    """

    def __init__(
        self, *, class_weight: float, l1_weight: float, giou_weight: float, dice_weight: float
    ) -> None:
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.dice_weight = dice_weight

    @torch.no_grad()
    def match_locations(self, location: LocationOutput, things: Things) -> LocationMatch:
        """Match each layer's queries to the things of their image, by class and box.

        Raises:
            ValueError: a label is not a thing class.
            FloatingPointError: a cost is not finite.
        """
        num_layers, num_queries = len(location.logits), location.logits[0].shape[1]
        if max(things.counts) > num_queries:
            log_first_n(
                logging.WARNING,
                f"An image has more things than there are queries ({num_queries}): the others go "
                "without supervision (MODEL.PANOPTIC_SEGFORMER.NUM_THING_QUERIES)",
                key="message",
            )
        costs = self.location_costs(location, things)
        images = zip(*(cost.split(things.counts, dim=-1) for cost in costs.values()), strict=True)
        images = [dict(zip(costs, parts, strict=True)) for parts in images]
        assignment = assign_by_parts(
            [
                [{name: cost[layer] for name, cost in image.items()} for image in images]
                for layer in range(num_layers)
            ],
            names=[f"layer {layer} of the location decoder" for layer in range(num_layers)],
            labels=things.labels.split(things.counts),
            num_classes=location.logits[0].shape[-1],
        )
        matched_queries = assignment.query[-1].split(
            [min(num_queries, count) for count in things.counts]
        )
        return LocationMatch(
            things,
            assignment,
            list(matched_queries),
            [
                {name: cost[-1, queries] for name, cost in image.items()}
                for queries, image in zip(matched_queries, images, strict=True)
            ],
        )

    def location_costs(self, location: LocationOutput, things: Things) -> dict[str, Tensor]:
        """Return weighted costs of every query and thing: {name: (layers, Q, N)}.

        Column n is of the queries of thing n's image. "class" (NaN for labels that are not thing
        classes), "L1", and of boxes "GIoU".
        """
        logits = at_least_float32(torch.stack(location.logits))
        num_classes = logits.shape[-1]
        unknown = (things.labels < 0) | (things.labels >= num_classes)
        labels = things.labels.clamp(0, num_classes - 1)
        class_cost = focal_class_cost(logits[:, things.image, :, labels])  # (N, layers, Q)
        class_cost = class_cost.masked_fill(unknown[:, None, None], torch.nan).permute(1, 2, 0)

        boxes = at_least_float32(torch.stack(location.boxes))[:, things.image].transpose(1, 2)
        costs = {
            "class": self.class_weight * class_cost,
            "L1": self.l1_weight * (boxes - things.boxes).abs().sum(-1),
        }
        if boxes.shape[-1] == 4:
            giou = generalized_iou(
                pixel_boxes(boxes, things.scale), pixel_boxes(things.boxes, things.scale)
            )
            costs["GIoU"] = -self.giou_weight * giou
        return costs

    @torch.no_grad()
    def match_masks(
        self, match: LocationMatch, masks: Tensor, true_masks: Sequence[Tensor]
    ) -> Assignment:
        """Match the matched queries once more, with the dice loss of their final masks.

        Args:
            masks: (B, N, h, w), those of an image's matched queries first.
            true_masks: of each image (n, h, w), at least float32.

        Returns:
            One prediction; ``query`` counts the matched queries of an image.

        Raises:
            FloatingPointError: a cost is not finite.
        """
        costs = []
        for parts, predicted, true in zip(match.costs, masks, true_masks, strict=True):
            predicted = at_least_float32(predicted[: len(parts["class"])])
            dice = pairwise_squared_dice_loss(
                predicted.flatten(1), true.flatten(1), smooth=DICE_SMOOTH
            )
            class_cost = MASK_MATCHING_CLASS_FACTOR * parts["class"]
            costs.append(parts | {"class": class_cost, "dice": self.dice_weight * dice})
        return assign_by_parts([costs], names=["the final thing masks"])
