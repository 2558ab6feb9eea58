"""Feature maps of a batch of images, with or without influence of the padding."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from panoptic_segformer.padding import PaddedShapes, Size, nearest_size
from segcore.layers import pad_to
from segcore.meta_arch import batch_images

# A batch (B, 3, H, W) and the size of its images, which all lie at its top left -> the maps
# (B, C, H_l, W_l) of that part, fine to coarse.
Extract = Callable[[Tensor, Size], list[Tensor]]


class Features(NamedTuple):
    """Maps (B, C, H_l, W_l) of a batch, their shapes, and (H, W) of the batch."""

    maps: list[Tensor]
    shapes: PaddedShapes
    padded_size: Size


def padded_features(images: Sequence[Tensor], size_divisibility: int, extract: Extract) -> Features:
    """Pad images first, as the official code does; the network sees the padding.

    Args:
        images: (3, H, W) each, normalized.
        size_divisibility: the batch is padded to a multiple.
    """
    batch = batch_images(images, size_divisibility)
    padded_size = tuple(batch.tensor.shape[-2:])
    maps = extract(batch.tensor, padded_size)
    valid_shapes = [
        [nearest_size(tuple(size), padded_size, tuple(level.shape[-2:])) for level in maps]
        for size in batch.image_sizes
    ]
    return Features(maps, _padded_shapes(maps, valid_shapes), padded_size)


def unpadded_features(
    images: Sequence[Tensor],
    size_divisibility: int,
    extract: Extract,
    *,
    strides: Sequence[int],
    backbone_divisibility: int = 0,
) -> Features:
    """Extract the maps of each image alone, and pad these. See :func:`padded_features`.

    Padding before the backbone would reach the images through convolutions, norms and attention.
    So images of one size go through it together, and each size by itself.

    Args:
        strides: of the maps.
        backbone_divisibility: sizes that the backbone takes are multiples of it.
    """
    members: dict[Size, list[int]] = {}
    for index, image in enumerate(images):
        members.setdefault(tuple(image.shape[-2:]), []).append(index)
    maps_by_size = {
        size: extract(
            batch_images([images[i] for i in indices], backbone_divisibility).tensor, size
        )
        for size, indices in members.items()
    }
    divisor = max(size_divisibility, 1)
    padded_size = tuple(
        -(-max(sides) // divisor) * divisor for sides in zip(*maps_by_size, strict=True)
    )
    map_sizes = [tuple(-(-side // stride) for side in padded_size) for stride in strides]

    order = [i for indices in members.values() for i in indices]
    inverse = [order.index(i) for i in range(len(images))]
    maps = [
        torch.cat([pad_to(level, size) for level in levels])[inverse]
        for levels, size in zip(zip(*maps_by_size.values(), strict=True), map_sizes, strict=True)
    ]
    valid_shapes = [
        [tuple(level.shape[-2:]) for level in maps_by_size[tuple(image.shape[-2:])]]
        for image in images
    ]
    return Features(maps, _padded_shapes(maps, valid_shapes), padded_size)


def _padded_shapes(maps: Sequence[Tensor], valid_shapes: Sequence[Sequence[Size]]) -> PaddedShapes:
    spatial_shapes = [tuple(level.shape[-2:]) for level in maps]
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    return PaddedShapes(spatial_shapes, valid_shapes, maps[0].device, dtype)
