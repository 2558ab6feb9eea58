"""Padding policies: which images go through the network together, and what padding does there."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from panoptic_segformer.padding import Size
from segcore.backbones.features import required_divisor
from segcore.backbones.resnet import backbone_features
from segcore.functional import round_up
from segcore.layers import pad_to
from segcore.meta_arch import batch_images

Output = TypeVar("Output")


class ImageBatch(NamedTuple):
    """Images that go through the network together.

    Attributes:
        images: (B, 3, H, W), normalized.
        image_sizes: (h, w) of each without padding; None: there is no padding.
        indices: of the images in the list that the policy was given.
    """

    images: Tensor
    image_sizes: list[Size] | None
    indices: list[int]


class PaddingPolicy(ABC):
    """Decides what padding and the other images of a batch have to do with an image."""

    @abstractmethod
    def batches(self, images: Sequence[Tensor], divisor: int) -> list[ImageBatch]:
        """Batch images (3, h, w) each; padded sizes are multiples of ``divisor``."""

    @abstractmethod
    def features(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Run the backbone on the images (B, 3, H, W) of a batch."""


class SeparateSizes(PaddingPolicy):
    """Images of one size go together, without padding: an image's result depends on it alone.

    Padding would reach the images through convolutions, norms and attention. Where the backbone
    requires some, it is cut off the features.
    """

    def batches(self, images: Sequence[Tensor], divisor: int) -> list[ImageBatch]:
        members: dict[Size, list[int]] = {}
        for index, image in enumerate(images):
            members.setdefault(image_size(image), []).append(index)
        return [
            ImageBatch(batch_images([images[i] for i in indices], 1).tensor, None, indices)
            for indices in members.values()
        ]

    def features(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        size = common_size([images], required_divisor(backbone))
        features = backbone_features(backbone, pad_to(images, size))
        shapes, cut = backbone.output_shape(), {}
        for name, feature in features.items():
            height, width = map_size(image_size(images), shapes[name].stride)
            cut[name] = feature[..., :height, :width]
        return cut


class OfficialPadding(PaddingPolicy):
    """All images are padded to one size; the network sees the padding, as in the official code."""

    def batches(self, images: Sequence[Tensor], divisor: int) -> list[ImageBatch]:
        batch = batch_images(images, divisor).tensor
        sizes = [image_size(image) for image in images]
        padded = any(size != image_size(batch) for size in sizes)
        return [ImageBatch(batch, sizes if padded else None, list(range(len(images))))]

    def features(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        return backbone_features(backbone, images)


def padding_policy_of(panoptic_segformer: CfgNode) -> PaddingPolicy:
    """Return the policy of the config ``MODEL.PANOPTIC_SEGFORMER``."""
    return OfficialPadding() if panoptic_segformer.OFFICIAL_PADDING else SeparateSizes()


def image_size(image: Tensor) -> Size:
    """Return (H, W) of (..., H, W)."""
    return tuple(image.shape[-2:])


def map_size(size: Size, stride: int) -> Size:
    """Return (h, w) of the map of an image of ``size``, the last cells of which may be partial."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def common_size(images: Sequence[Tensor], divisor: int) -> Size:
    """Return the smallest (H, W) that images (..., h, w) fit into, in multiples of ``divisor``."""
    divisor, sizes = max(divisor, 1), map(image_size, images)
    height, width = (round_up(max(sides), divisor) for sides in zip(*sizes, strict=True))
    return height, width


def by_image(batches: Sequence[ImageBatch], outputs: Iterable[Iterable[Any]]) -> list[Any]:
    """Return what each batch gives for its images, in the order of all images.

    Args:
        outputs: of each batch, one element an image.
    """
    elements = {
        index: element
        for batch, of_batch in zip(batches, outputs, strict=True)
        for index, element in zip(batch.indices, of_batch, strict=True)
    }
    return [elements[index] for index in range(len(elements))]


def join(batches: Sequence[ImageBatch], outputs: Sequence[Output]) -> Output:
    """Join outputs of all batches to one, in the order of images.

    Args:
        outputs: of each batch, tensors (B_i, ...) in lists and NamedTuples of one structure.
    """
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.stack(by_image(batches, outputs))
    parts = [join(batches, part) for part in zip(*outputs, strict=True)]
    return parts if isinstance(first, list) else type(first)(*parts)
