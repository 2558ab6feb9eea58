"""Mappers, dataset dict -> the model's input, chosen by name.

A training mapper augments the image and makes the targets. In tests every model has ``TestMapper``,
except where there is another of the same name here.
"""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode

from segcore.data.mappers.classification import ClassificationMapper
from segcore.data.mappers.lsj import CocoInstanceLSJ, CocoPanopticLSJ
from segcore.data.mappers.mask_former import (
    MaskFormerInstance,
    MaskFormerPanoptic,
    MaskFormerSemantic,
)
from segcore.data.mappers.panoptic_segformer import (
    PanopticSegFormerMapper,
    panoptic_segformer_test_mapper,
)
from segcore.data.mappers.pixels import PixelTransform, classification_pixels, resized_pixels
from segcore.data.mappers.testing import TestMapper

SEGMENTATION_MAPPERS = {
    "coco_panoptic_lsj": CocoPanopticLSJ,
    "coco_instance_lsj": CocoInstanceLSJ,
    "mask_former_semantic": MaskFormerSemantic,
    "mask_former_panoptic": MaskFormerPanoptic,
    "mask_former_instance": MaskFormerInstance,
    "panoptic_segformer": PanopticSegFormerMapper,
}
TRAIN_MAPPERS = {**SEGMENTATION_MAPPERS, "image_classification": ClassificationMapper}
TEST_MAPPERS = {
    "panoptic_segformer": panoptic_segformer_test_mapper,
    "image_classification": partial(ClassificationMapper, is_train=False),
}
# The pixels that a test mapper of the same name makes.
TEST_PIXELS = {"image_classification": classification_pixels}


def build_train_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names; an unknown name is a ValueError."""
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in TRAIN_MAPPERS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME: expected one of {', '.join(TRAIN_MAPPERS)}; got {name!r}"
        )
    return TRAIN_MAPPERS[name](cfg)


def build_test_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """The mapper for evaluation that belongs to the one for training."""
    build = TEST_MAPPERS.get(cfg.INPUT.DATASET_MAPPER_NAME, TestMapper)
    return build(cfg)


def build_test_pixels(cfg: CfgNode) -> PixelTransform:
    """What makes of a photo the "image" that the mapper for evaluation makes of its file."""
    return TEST_PIXELS.get(cfg.INPUT.DATASET_MAPPER_NAME, resized_pixels)(cfg)
