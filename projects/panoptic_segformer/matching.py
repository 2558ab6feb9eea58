"""Two matchings of thing queries: by class and location, then of the matched ones with masks."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from panoptic_segformer.location_decoder import LocationOutput
from panoptic_segformer.location_kinds import LocationKind
from panoptic_segformer.targets import Things
from segcore.functional import at_least_float32
from segcore.losses import pairwise_squared_dice_loss
from segcore.matching import Assignment, assign_by_parts, focal_class_cost

# The second matching weighs the class more than the first.
MASK_MATCHING_CLASS_FACTOR = 2.0
DICE_SMOOTH = 1e-3


class LocationMatch(NamedTuple):
    """Matching of thing queries to things by class and location.

    Attributes:
        locations: (N, num_coordinates) of the things, see :class:`LocationKind`.
        assignment: of all layers of the location decoder, over the things of all images.
        matched_queries: of each image, the queries of the last layer's pairs: int64, ascending.
            They alone go into the mask decoder.
        costs: of each image {name: (matched queries, things)}, the last layer's.
    """

    locations: Tensor
    assignment: Assignment
    matched_queries: list[Tensor]
    costs: list[dict[str, Tensor]]

    def gather(self, queries: Tensor) -> Tensor:
        """Return the matched ones of queries (B, Q, C): (B, N, C), padded with zeros."""
        pairs = zip(queries, self.matched_queries, strict=True)
        return pad_sequence([of_image[indices] for of_image, indices in pairs], batch_first=True)


class ThingMatcher:
    """Hungarian matching of thing queries, twice. No gradient; costs are float32 or float64.

    Where an image has more things than there are queries, as many as possible find one.
    """

    def __init__(
        self, location_kind: LocationKind, *, class_weight: float, dice_weight: float
    ) -> None:
        self.location_kind = location_kind
        self.class_weight = class_weight
        self.dice_weight = dice_weight

    @torch.no_grad()
    def match_locations(self, location: LocationOutput, things: Things) -> LocationMatch:
        """Match each layer's queries to the things of their image, by class and location.

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
        locations = self.location_kind.true(things)
        costs = self.location_costs(location, things, locations)
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
            locations,
            assignment,
            list(matched_queries),
            [
                {name: cost[-1, queries] for name, cost in image.items()}
                for queries, image in zip(matched_queries, images, strict=True)
            ],
        )

    def location_costs(
        self, location: LocationOutput, things: Things, locations: Tensor
    ) -> dict[str, Tensor]:
        """Return weighted costs of every query and thing: {name: (layers, Q, N)}.

        Column n is of the queries of thing n's image. "class" (NaN for labels that are not thing
        classes), and those of the :class:`LocationKind`.
        """
        logits = at_least_float32(torch.stack(location.logits))
        num_classes = logits.shape[-1]
        unknown = (things.labels < 0) | (things.labels >= num_classes)
        labels = things.labels.clamp(0, num_classes - 1)
        class_cost = focal_class_cost(logits[:, things.image, :, labels])  # (N, layers, Q)
        class_cost = class_cost.masked_fill(unknown[:, None, None], torch.nan).permute(1, 2, 0)

        boxes = at_least_float32(torch.stack(location.boxes))[:, things.image].transpose(1, 2)
        costs = self.location_kind.costs(boxes, locations, things.scale)
        return {"class": self.class_weight * class_cost, **costs}

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
