"""Pixels of a photo as evaluation gives them to a model, for photos that are no data set's."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from segcore.data.mappers.augmentation import resize_for_test
from segcore.data.mappers.classification import eval_transform
from segcore.errors import ImageError

# (H, W, 3) uint8 in the channel order INPUT.FORMAT -> (3, h, w) uint8
PixelTransform = Callable[[np.ndarray], Tensor]


def resized_pixels(cfg: CfgNode) -> PixelTransform:
    """Of segmentation: the photo, resized as ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST`` say."""
    resize = resize_for_test(cfg)

    def transform(photo: np.ndarray) -> Tensor:
        geometry = resize.get_transform(photo)
        if not (getattr(geometry, "new_h", 1) and getattr(geometry, "new_w", 1)):
            height, width = photo.shape[:2]
            raise ImageError(
                f"a photo of {width}x{height} pixels is too narrow: with its longer edge at "
                f"INPUT.MAX_SIZE_TEST {cfg.INPUT.MAX_SIZE_TEST} nothing is left of the other"
            )
        pixels = geometry.apply_image(photo)
        return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    return transform


def classification_pixels(cfg: CfgNode) -> PixelTransform:
    """Of classification: the square that is cut out of the photo."""
    crop = eval_transform(cfg)
    return lambda photo: pil_to_tensor(crop(Image.fromarray(np.ascontiguousarray(photo))))
