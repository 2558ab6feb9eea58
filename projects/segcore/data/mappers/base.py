"""Base of the training mappers for segmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from segcore.data.images import MAX_PIXELS
from segcore.data.mappers.reading import read_photo, read_semantic_map, require

IMAGE_PADDING = 128


class TrainMapper:
    """Reads and augments the photo of a dataset dict; subclasses make its targets.

    The returned dict has "image" ((3, H, W) uint8 in the image format), "instances" (gt_classes
    int64 (n,), gt_masks (n, H, W), and what the subclass adds) and the given entries, without the
    annotation. "height" and "width" are those of the photo as read. The given dict stays as it is.

    Args:
        augmentations: applied in order.
        image_format: as :func:`segcore.data.images.read_image` takes it.
        max_pixels: of the photo and of annotation images; those with more are refused.
        padded_size: height and width after padding at the right and bottom (larger images are
            cut); 0 or less leaves the size as it is.
        ignore_label: of the semantic map, where the subclass reads one.
        crops_by_category: an augmentation looks at the semantic map, so that it must be there.

    Raises:
        KeyError: the dict lacks an entry that the mapper needs.
        ImageError: a file is missing, unreadable or refused.
        SizeMismatchError: photo and annotation differ in size.
    """

    needs: tuple[str, ...] = ()
    reads_semantic_map = False

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        padded_size: int = -1,
        ignore_label: int | None = None,
        crops_by_category: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.padded_size = padded_size
        self.ignore_label = ignore_label
        self.max_pixels = max_pixels
        if crops_by_category:
            self.needs = (*self.needs, "sem_seg_file_name")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments that all mappers take from a config; subclasses add their augmentations."""
        return {"image_format": cfg.INPUT.FORMAT, "max_pixels": cfg.INPUT.MAX_PIXELS}

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        require(sample, "file_name", *self.needs)
        inputs = T.AugInput(read_photo(sample, self.image_format, self.max_pixels))
        if self.reads_semantic_map and "sem_seg_file_name" in sample:
            path = sample.pop("sem_seg_file_name")
            inputs.sem_seg = read_semantic_map(path, sample, self.max_pixels)
        transforms = self.augmentations(inputs)

        image = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
        sample["image"] = self.pad(torch.from_numpy(image), IMAGE_PADDING)
        if inputs.sem_seg is not None:
            semantic_map = torch.from_numpy(np.ascontiguousarray(inputs.sem_seg))
            sample["sem_seg"] = self.pad(semantic_map.to(torch.int64), self.ignore_label)
        sample["instances"] = self.make_targets(sample, transforms, inputs.image.shape[:2])
        return sample

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        """Take the annotation out of ``sample`` and return it, transformed and padded.

        Args:
            size: (H, W) of the transformed image before padding.
        """
        raise NotImplementedError

    def pad(self, x: Tensor, value: float) -> Tensor:
        """(..., H, W) -> (..., padded_size, padded_size)."""
        if self.padded_size <= 0:
            return x
        height, width = x.shape[-2:]
        return F.pad(x, (0, self.padded_size - width, 0, self.padded_size - height), value=value)
