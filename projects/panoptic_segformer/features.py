"""From images to maps of every level, with or without an influence of the padding."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from panoptic_segformer.padding import PaddedLevels, Size, nearest_size
from segcore.layers import pad_to
from segcore.meta_arch import batch_images

# A batch (B, 3, H, W) and the size of its images, which all lie at its top left -> the maps
# (B, C, H_l, W_l) of that part, fine to coarse.
Extract = Callable[[Tensor, Size], list[Tensor]]


class Features(NamedTuple):
    """Maps (B, C, H_l, W_l) of a batch, where the images lie on them, and (H, W) of the batch."""

    maps: list[Tensor]
    levels: PaddedLevels
    padded_size: Size


def padded_features(images: Sequence[Tensor], size_divisibility: int, extract: Extract) -> Features:
    """As the original: images are padded first, and the network sees the padding.

    Args:
        images: (3, H, W) each, normalised.
        size_divisibility: the batch is padded to a multiple.
    """
    batch = batch_images(images, size_divisibility)
    padded_size = tuple(batch.tensor.shape[-2:])
    maps = extract(batch.tensor, padded_size)
    own = [
        [nearest_size(tuple(size), padded_size, tuple(level.shape[-2:])) for level in maps]
        for size in batch.image_sizes
    ]
    return Features(maps, _levels(maps, own), padded_size)


def own_features(
    images: Sequence[Tensor],
    size_divisibility: int,
    extract: Extract,
    *,
    strides: Sequence[int],
    backbone_divisibility: int = 0,
) -> Features:
    """Each image has the maps that it has alone; these are padded. See :func:`padded_features`.

    Convolutions, norms and attention of a backbone spread what they make of padding, and group
    norm counts it. So images of one size go through it together, and each size by itself.

    Args:
        strides: of the maps.
        backbone_divisibility: sizes that the backbone takes are multiples of it.
    """
    members: dict[Size, list[int]] = {}
    for index, image in enumerate(images):
        members.setdefault(tuple(image.shape[-2:]), []).append(index)
    maps_of = {
        size: extract(
            batch_images([images[i] for i in indices], backbone_divisibility).tensor, size
        )
        for size, indices in members.items()
    }
    divisor = max(size_divisibility, 1)
    padded_size = tuple(-(-max(sides) // divisor) * divisor for sides in zip(*maps_of, strict=True))
    map_sizes = [tuple(-(-side // stride) for side in padded_size) for stride in strides]

    order = [i for indices in members.values() for i in indices]
    inverse = [order.index(i) for i in range(len(images))]
    maps = [
        torch.cat([pad_to(level, size) for level in levels])[inverse]
        for levels, size in zip(zip(*maps_of.values(), strict=True), map_sizes, strict=True)
    ]
    own = [
        [tuple(level.shape[-2:]) for level in maps_of[tuple(image.shape[-2:])]] for image in images
    ]
    return Features(maps, _levels(maps, own), padded_size)


def _levels(maps: Sequence[Tensor], own: Sequence[Sequence[Size]]) -> PaddedLevels:
    sizes = [tuple(level.shape[-2:]) for level in maps]
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    return PaddedLevels(sizes, own, maps[0].device, dtype)
