"""Augmentations of clips: the same in all frames, or drawn for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

BY_CLIP = "_by_clip"
COLOR_FACTORS = (0.9, 1.1)
MAX_DEGREES = 15
ROTATION_CENTERS = ((0.4, 0.4), (0.6, 0.6))  # shares of the width and height


@dataclass
class ClipAugmentation:
    """An augmentation, which draws from ``numpy.random``.

    Attributes:
        by_clip: it takes the same decisions in all frames of a clip.
    """

    augmentation: T.Augmentation
    by_clip: bool


class ClipTransformer:
    """Transformer of the frames of one clip, one after the other.

    Where an augmentation is by clip, the first frame draws, and the others see the same random
    numbers again; they do not advance ``numpy.random``.
    """

    def __init__(self, augmentations: Sequence[ClipAugmentation]):
        self.augmentations = augmentations
        self._states: dict[int, tuple] = {}

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, T.TransformList]:
        """Return a frame (H, W, 3) transformed, and its transforms for annotations."""
        inputs, transforms = T.AugInput(image), []
        for number, augmentation in enumerate(self.augmentations):
            # The global generator is that of Detectron2's augmentations.
            present = np.random.get_state()  # noqa: NPY002
            if number in self._states:
                np.random.set_state(self._states[number])  # noqa: NPY002
            transforms.append(augmentation.augmentation(inputs))
            if number in self._states:
                np.random.set_state(present)  # noqa: NPY002
            elif augmentation.by_clip:
                self._states[number] = present
        return inputs.image, T.TransformList(transforms)


def clip_augmentations(cfg: CfgNode) -> list[ClipAugmentation]:
    """Return crop, resizing, flip and those of ``INPUT.AUGMENTATIONS``, in this order.

    Sizes and flips are by clip where their key says so, the others if
    ``INPUT.AUGMENTATIONS_BY_CLIP``.
    """
    inputs = cfg.INPUT
    augmentations = []
    if inputs.CROP.ENABLED:
        crop = T.RandomCrop(inputs.CROP.TYPE, inputs.CROP.SIZE)
        augmentations.append(ClipAugmentation(crop, inputs.AUGMENTATIONS_BY_CLIP))
    sampling = inputs.MIN_SIZE_TRAIN_SAMPLING
    resize = T.ResizeShortestEdge(
        inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN, sampling.removesuffix(BY_CLIP)
    )
    augmentations.append(ClipAugmentation(resize, sampling.endswith(BY_CLIP)))
    direction = inputs.RANDOM_FLIP
    if direction != "none":
        flip = T.RandomFlip(horizontal=direction != "vertical", vertical=direction == "vertical")
        augmentations.append(ClipAugmentation(flip, direction.endswith(BY_CLIP)))
    return augmentations + [
        ClipAugmentation(_COLORS_AND_ROTATION[name](), inputs.AUGMENTATIONS_BY_CLIP)
        for name in _COLORS_AND_ROTATION
        if name in inputs.AUGMENTATIONS
    ]


def _rotation() -> T.Augmentation:
    return T.RandomRotation([-MAX_DEGREES, MAX_DEGREES], expand=False, center=ROTATION_CENTERS)


_COLORS_AND_ROTATION = {
    "brightness": lambda: T.RandomBrightness(*COLOR_FACTORS),
    "contrast": lambda: T.RandomContrast(*COLOR_FACTORS),
    "saturation": lambda: T.RandomSaturation(*COLOR_FACTORS),
    "rotation": _rotation,
}
