"""Training mappers: dataset dict -> augmented image and targets, chosen by name."""

from collections.abc import Callable

from detectron2.config import CfgNode

from segcore.data.mappers.lsj import CocoInstanceLSJ, CocoPanopticLSJ
from segcore.data.mappers.mask_former import (
    MaskFormerInstance,
    MaskFormerPanoptic,
    MaskFormerSemantic,
)

TRAIN_MAPPERS = {
    "coco_panoptic_lsj": CocoPanopticLSJ,
    "coco_instance_lsj": CocoInstanceLSJ,
    "mask_former_semantic": MaskFormerSemantic,
    "mask_former_panoptic": MaskFormerPanoptic,
    "mask_former_instance": MaskFormerInstance,
}


def build_train_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names; an unknown name is a ValueError."""
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in TRAIN_MAPPERS:
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME: expected one of {', '.join(TRAIN_MAPPERS)}; got {name!r}"
        )
    return TRAIN_MAPPERS[name](cfg)
