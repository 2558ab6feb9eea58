"""Training losses of Panoptic SegFormer (Li et al., CVPR 2022): locations, things, stuff."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from panoptic_segformer.location_decoder import LocationOutput
from panoptic_segformer.location_kinds import BOXES, LocationKind, location_kind_of
from panoptic_segformer.matching import LocationMatch, ThingMatcher
from panoptic_segformer.targets import Stuff, Targets, Things
from segcore.functional import at_least_float32, bilinear
from segcore.losses import mean_over_workers, squared_dice_loss

# Masks are compared at twice the size that they are predicted at.
UPSAMPLING = 2
DICE_SMOOTH = 1e-6
STUFF_CLASS_FACTOR = 2.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


class PanopticSegFormerCriterion(nn.Module):
    """Losses of the location decoder, the thing masks and the stuff masks, weighted.

    Sums over a batch, weighted by the shares of things and of stuff in the annotations of all
    workers. Without things or stuff their losses are empty sums, not constants: every parameter has
    a gradient, and DistributedDataParallel need not look for unused ones.

    Args:
        location_kind: costs and losses of the locations.
        class_weight, dice_weight: of costs and losses. Classes weigh twice as much in the second
            matching and in the stuff loss.
        official_empty_things: drop the stuff class loss where no image of the process has a thing.
    """

    def __init__(
        self,
        location_kind: LocationKind = BOXES,
        *,
        class_weight: float = 2.0,
        dice_weight: float = 2.0,
        official_empty_things: bool = False,
    ) -> None:
        super().__init__()
        self.location_kind = location_kind
        self.class_weight = class_weight
        self.dice_weight = dice_weight
        self.official_empty_things = official_empty_things
        self.matcher = ThingMatcher(
            location_kind, class_weight=class_weight, dice_weight=dice_weight
        )

    def match(self, location: LocationOutput, targets: Targets) -> LocationMatch:
        """Match thing queries to things; the matched ones go into the mask decoder.

        Raises:
            ValueError: targets of another number of images; a label is not a thing class.
            FloatingPointError: a matching cost is not finite.
        """
        expected, actual = len(location.logits[0]), len(targets.things.counts)
        if actual != expected:
            raise ValueError(f"targets: expected those of {expected} images, got {actual}")
        with torch.autocast(location.boxes[-1].device.type, enabled=False):
            return self.matcher.match_locations(location, targets.things)

    def forward(
        self,
        location: LocationOutput,
        match: LocationMatch,
        thing_masks: Sequence[Tensor],
        stuff_masks: Sequence[Tensor],
        stuff_logits: Sequence[Tensor],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """
        Args:
            location: output of the location decoder.
            match: :meth:`match` of it.
            thing_masks: (B, N, h, w) of each block and, last, of the tail: those of an
                image's matched queries in their order, then any up to N.
            stuff_masks: (B, K_stuff, h, w) of each block and, last, of the tail.
            stuff_logits: (B, K_stuff) of each block.

        Returns:
            Scalars, float32 or float64, whose sum is the total loss. Of the last location layer
            "loss_cls" and the losses of the :class:`LocationKind`, of layer i "d{i}.loss_cls", ...;
            of the final masks "loss_mask_things", "loss_mask_stuff", of those of block i
            "d{i}.loss_mask_things_f", ...; "d{i}.loss_cls_stuff_f".

        Raises:
            FloatingPointError: a matching cost is not finite.
        """
        things, stuff = targets
        with torch.autocast(location.boxes[-1].device.type, enabled=False):
            losses = self._location_losses(location, match, things)
            losses |= self._thing_mask_losses(match, thing_masks, things)
            losses |= self._stuff_mask_losses(stuff_masks, stuff)
            losses |= self._stuff_class_losses(stuff_logits, targets)
            # A mean over things, times their share things / (things + stuff); so of stuff.
            counts = [match.assignment.query.shape[1], len(stuff.labels)]
            total = mean_over_workers(counts, like=things.boxes).sum()
            return {name: loss / total for name, loss in losses.items()}

    def _location_losses(
        self, location: LocationOutput, match: LocationMatch, things: Things
    ) -> dict[str, Tensor]:
        image, query, target = match.assignment
        logits = at_least_float32(torch.stack(location.logits))  # (layers, B, Q, K)
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        classes = torch.zeros_like(logits)
        classes[layer, image, query, things.labels[target]] = 1
        class_loss = _focal_loss(logits, classes).flatten(1).sum(1)
        losses = _by_layer(self.class_weight * class_loss, "loss_cls", "d{}.loss_cls")

        boxes = at_least_float32(torch.stack(location.boxes))[layer, image, query]
        pairs = self.location_kind.losses(boxes, match.locations[target], things.scale[target])
        for name, loss in pairs.items():
            losses |= _by_layer(loss.sum(1), name, f"d{{}}.{name}")
        return losses

    def _thing_mask_losses(
        self, match: LocationMatch, masks: Sequence[Tensor], things: Things
    ) -> dict[str, Tensor]:
        """Return losses of the masks of all blocks, by the matching of the final masks."""
        size = masks[-1].shape[-2:]
        true = [_resized(of_image, size, like=masks[-1]) for of_image in things.masks]
        pairs = self.matcher.match_masks(match, masks[-1], true)
        image, row, target = (part[0] for part in pairs)
        loss = self._mask_loss(masks, image, row, things.masks, target)
        return _by_layer(loss, "loss_mask_things", "d{}.loss_mask_things_f")

    def _stuff_mask_losses(self, masks: Sequence[Tensor], stuff: Stuff) -> dict[str, Tensor]:
        """Return losses of the classes in each image; query c stands for stuff class c."""
        loss = self._mask_loss(masks, stuff.image, stuff.labels, stuff.masks)
        return _by_layer(loss, "loss_mask_stuff", "d{}.loss_mask_stuff_f")

    def _mask_loss(
        self,
        masks: Sequence[Tensor],
        image: Tensor,
        row: Tensor,
        true: Sequence[Tensor],
        target: Tensor | None = None,
    ) -> Tensor:
        """Return dice losses of ``masks[layer][image, row]``, weighted and summed: (layers,).

        Args:
            true: of each image (n, H, W).
            target: index of each pair's mask in those of all images; None: all in their order.
        """
        height, width = masks[-1].shape[-2:]
        size = (UPSAMPLING * height, UPSAMPLING * width)
        predicted = at_least_float32(torch.cat([layer[image, row] for layer in masks]))
        predicted = bilinear(predicted, size).flatten(1).unflatten(0, (len(masks), len(image)))
        true = torch.cat([_resized(part, size, like=predicted) for part in true]).flatten(1)
        if target is not None:
            true = true[target]
        return self.dice_weight * squared_dice_loss(predicted, true, smooth=DICE_SMOOTH).sum(1)

    def _stuff_class_losses(self, logits: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return losses of the presence of each stuff class in each image."""
        things, stuff = targets
        logits = at_least_float32(torch.stack(list(logits)))  # (blocks, B, K)
        present = torch.zeros_like(logits)
        present[:, stuff.image, stuff.labels] = 1
        weight = STUFF_CLASS_FACTOR * self.class_weight
        if self.official_empty_things and not len(things.labels):
            weight = 0.0
        loss = weight * _focal_loss(logits, present).flatten(1).sum(1)
        return {f"d{block}.loss_cls_stuff_f": value for block, value in enumerate(loss)}


def _focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return sigmoid_focal_loss(logits, targets, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA)


def _by_layer(losses: Tensor, last: str, others: str) -> dict[str, Tensor]:
    """{name: loss} of ``losses`` (layers,); ``others`` is the pattern of all but the last's."""
    *first, final = losses.unbind()
    return {last: final} | {others.format(layer): loss for layer, loss in enumerate(first)}


def _resized(masks: Tensor, size: tuple[int, int], like: Tensor) -> Tensor:
    """True masks (n, H, W) -> (n, h, w), of the type of predictions ``like`` or float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return bilinear(masks.to(dtype), size)


def build_criterion(cfg: CfgNode) -> PanopticSegFormerCriterion:
    """The criterion that ``MODEL.PANOPTIC_SEGFORMER`` describes."""
    panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    return PanopticSegFormerCriterion(
        location_kind_of(panoptic_segformer),
        class_weight=panoptic_segformer.CLASS_WEIGHT,
        dice_weight=panoptic_segformer.DICE_WEIGHT,
        official_empty_things=panoptic_segformer.OFFICIAL_EMPTY_THINGS,
    )
