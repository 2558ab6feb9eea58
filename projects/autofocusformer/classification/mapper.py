"""Mapper of image classification: timm's augmentation for training, a central crop for tests."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor

from segcore.data.images import MAX_PIXELS
from segcore.data.mappers.pixels import PixelTransform
from segcore.data.mappers.reading import read_photo, require
from segcore.data.mappers.registry import register_mapper
from segcore.requirements import require_timm

# Of the usual evaluation at 224 pixels: the short edge before the crop, over the crop.
TEST_MARGIN = 256 / 224


class ClassificationMapper:
    """Reads and transforms the photo of a dataset dict with "file_name" and "class_id".

    The returned dict has "image" ((3, H, W) uint8, RGB) and the given entries; "height" and "width"
    are those of the photo as read, with its EXIF orientation applied.

    Args:
        transform: RGB photo -> RGB image, both of Pillow.
        max_pixels: photos with more are refused.

    Raises:
        KeyError: the dict lacks an entry.
        ImageError: the photo is missing, unreadable or refused.
    """

    needs = ("file_name", "class_id")

    @configurable
    def __init__(
        self, *, transform: Callable[[Image.Image], Image.Image], max_pixels: int = MAX_PIXELS
    ):
        self.transform = transform
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool = True) -> dict[str, Any]:
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(
                f"INPUT.FORMAT: expected 'RGB' for image classification, got {cfg.INPUT.FORMAT!r}"
            )
        return {
            "transform": train_transform(cfg) if is_train else eval_transform(cfg),
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        require(sample, *self.needs)
        photo = Image.fromarray(read_photo(sample, "RGB", self.max_pixels))
        sample["image"] = pil_to_tensor(self.transform(photo))
        return sample


def train_transform(cfg: CfgNode) -> Callable[[Image.Image], Image.Image]:
    """Random resized crop (bicubic), flip, RandAugment and color jitter, as timm composes them.

    Where there is a policy ``AUTO_AUGMENT``, timm leaves out the color jitter. What timm does to
    normalised images or whole batches (erasing, mixup) is left to the model.
    """
    require_timm()
    from timm.data import create_transform

    options = cfg.INPUT.CLASSIFICATION
    geometry, colors, _ = create_transform(
        cfg.INPUT.IMAGE_SIZE,
        is_training=True,
        interpolation="bicubic",
        auto_augment=options.AUTO_AUGMENT or None,
        color_jitter=options.COLOR_JITTER or None,
        # Fills what a rotation leaves empty.
        mean=tuple(value / 255 for value in cfg.MODEL.PIXEL_MEAN),
        separate=True,
    )
    return Compose([geometry, colors])


def eval_transform(cfg: CfgNode) -> Callable[[Image.Image], Image.Image]:
    """Resize the short edge (bicubic) with a margin and cut out the centre; or squeeze it all."""
    size = cfg.INPUT.IMAGE_SIZE
    if not cfg.INPUT.CLASSIFICATION.CENTER_CROP_TEST:
        return Resize((size, size), InterpolationMode.BICUBIC)
    return Compose([Resize(int(TEST_MARGIN * size), InterpolationMode.BICUBIC), CenterCrop(size)])


def classification_pixels(cfg: CfgNode) -> PixelTransform:
    """Cut the square of tests out of the photo."""
    crop = eval_transform(cfg)
    return lambda photo: pil_to_tensor(crop(Image.fromarray(np.ascontiguousarray(photo))))


register_mapper(
    "image_classification",
    test=partial(ClassificationMapper, is_train=False),
    test_pixels=classification_pixels,
)(ClassificationMapper)
