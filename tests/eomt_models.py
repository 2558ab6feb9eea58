"""A small EoMT for tests."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from eomt.meta_arch import EoMT
from segcore.config import get_cfg

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}


def small_cfg(*settings) -> CfgNode:
    """A config of four blocks, 32 channels, 64 pixels, 8 queries and 3 classes."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "EoMT", "MODEL.DEVICE", "cpu"),
            *("MODEL.EOMT.VIT.NAME", "vit_small_patch14_reg4_dinov2"),
            *("MODEL.EOMT.VIT.ARGUMENTS", list(map(list, TINY.items()))),
            *("MODEL.EOMT.NUM_BLOCKS", 2, "MODEL.EOMT.NUM_OBJECT_QUERIES", 8),
            *("MODEL.EOMT.TRAIN_NUM_POINTS", 64, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
            *("INPUT.IMAGE_SIZE", 64, "DATASETS.TRAIN", ()),
            *("SOLVER.LR_SCHEDULER_NAME", "TwoStageWarmupPolyLR"),
            *settings,
        ]
    )
    return cfg


def small_model(*settings, seed: int = 0) -> EoMT:
    torch.manual_seed(seed)
    return build_model(small_cfg(*settings))


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def annotated(height: int, width: int) -> dict:
    """An input with two segments, the upper and the lower half."""
    masks = torch.zeros((2, height, width), dtype=torch.bool)
    masks[0, : height // 2] = masks[1, height // 2 :] = True
    instances = Instances((height, width))
    instances.gt_classes, instances.gt_masks = torch.tensor([0, 2]), BitMasks(masks)
    return {"image": photo(height, width), "instances": instances, "file_name": "drawn.png"}
