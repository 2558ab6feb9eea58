"""Mapper of segmentation for tests: the photo, resized, without its annotation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

from segcore.data.images import MAX_PIXELS
from segcore.data.mappers.reading import read_photo


class TestMapper:
    """Reads and resizes the photo of a dataset dict, as Detectron2's ``DatasetMapper`` does.

    The returned dict has "image" ((3, H, W) uint8 in the image format) and the given entries,
    without "annotations" and "sem_seg_file_name"; "height" and "width" are those of the photo as
    read. The given dict stays as it is.

    Args:
        augmentations: applied in order.
        image_format: as :func:`segcore.data.images.read_image` takes it.
        max_pixels: photos with more are refused.

    Raises:
        ImageError: the photo is missing, unreadable or refused.
        SizeMismatchError: the photo is not of the size that the dict says.
    """

    __test__ = False  # no test of pytest

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        max_pixels: int = MAX_PIXELS,
    ):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "augmentations": build_augmentation(cfg, is_train=False),
            "image_format": cfg.INPUT.FORMAT,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        inputs = T.AugInput(read_photo(sample, self.image_format, self.max_pixels))
        self.augmentations(inputs)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        for key in ("annotations", "sem_seg_file_name"):
            sample.pop(key, None)
        return sample
