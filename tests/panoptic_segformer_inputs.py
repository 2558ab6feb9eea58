"""Small random predictions and targets for tests of Panoptic SegFormer's losses."""

import torch
from torch import Tensor

from panoptic_segformer.location_decoder import LocationOutput
from panoptic_segformer.targets import Target, Targets

BATCH, QUERIES, THINGS, STUFF = 2, 7, 4, 3
LAYERS, THING_BLOCKS, STUFF_BLOCKS = 3, 2, 3
PADDED_SIZE, MASK_SIZE = (40, 56), (5, 7)


def leaf(*size: int, sigmoid: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(size, dtype=dtype)
    return (values.sigmoid() if sigmoid else values).requires_grad_()


def location_of(coordinates: int = 4, queries: int = QUERIES, **options) -> LocationOutput:
    return LocationOutput(
        logits=[leaf(BATCH, queries, THINGS, **options) for _ in range(LAYERS)],
        boxes=[leaf(BATCH, queries, coordinates, sigmoid=True, **options) for _ in range(LAYERS)],
        queries=leaf(BATCH, queries, 8, **options),
    )


def thing_masks_of(num: int, **options) -> list[Tensor]:
    """Masks of ``num`` queries an image."""
    return [leaf(BATCH, num, *MASK_SIZE, sigmoid=True, **options) for _ in range(THING_BLOCKS + 1)]


def stuff_of(**options) -> tuple[list[Tensor], list[Tensor]]:
    """Stuff masks and logits."""
    masks = [leaf(BATCH, STUFF, *MASK_SIZE, sigmoid=True, **options) for _ in range(STUFF_BLOCKS)]
    return masks, [leaf(BATCH, STUFF, **options) for _ in range(STUFF_BLOCKS - 1)]


def targets_of(things: tuple[int, ...], stuff: tuple[int, ...], **options) -> list[Target]:
    return [target_of(*counts, **options) for counts in zip(things, stuff, strict=True)]


def target_of(things: int, stuff: int, dtype: torch.dtype = torch.float64) -> Target:
    center, size = torch.rand(things, 2) * 0.6 + 0.2, torch.rand(things, 2) * 0.4 + 0.05
    return Target(
        labels=torch.randint(THINGS, (things,)),
        boxes=torch.cat([center, size], dim=1).to(dtype),
        masks=torch.rand(things, *PADDED_SIZE) > 0.6,
        stuff_labels=torch.randperm(STUFF)[:stuff],
        stuff_masks=torch.rand(stuff, *PADDED_SIZE) > 0.6,
        image_size=(32 + 2 * things, 56 - stuff),
    )


def collected(targets: list[Target]) -> Targets:
    return Targets.collect(targets, PADDED_SIZE)
