"""Pixels of a photo as evaluation and prediction give them to a model."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor

from segcore.errors import ImageError

# (H, W, 3) uint8 in the channel order INPUT.FORMAT -> (3, h, w) uint8
PixelTransform = Callable[[np.ndarray], Tensor]


def resized_pixels(cfg: CfgNode, resize: Callable[[CfgNode], T.Augmentation]) -> PixelTransform:
    """Resize the photo by the augmentation that ``resize`` builds from the config."""
    augmentation = resize(cfg)

    def transform(photo: np.ndarray) -> Tensor:
        geometry = augmentation.get_transform(photo)
        if not (getattr(geometry, "new_h", 1) and getattr(geometry, "new_w", 1)):
            height, width = photo.shape[:2]
            raise ImageError(
                f"a photo of {width}x{height} pixels is too narrow: with its longer edge at "
                f"INPUT.MAX_SIZE_TEST {cfg.INPUT.MAX_SIZE_TEST} nothing is left of the other"
            )
        pixels = geometry.apply_image(photo)
        return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    return transform
