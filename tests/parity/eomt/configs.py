"""Our configuration of an official one."""

from pathlib import Path

from detectron2.config import CfgNode

from segcore.config import get_cfg

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def published_cfg(name: str) -> CfgNode:
    """Return the configuration of a key list, ``dinov2_coco_panoptic_large_640``, on the CPU."""
    family, dataset, task, variant = name.split("_", 3)
    cfg = get_cfg()
    file = f"{dataset}/{task}-segmentation/eomt_{family}_{variant}.yaml"
    cfg.merge_from_file(str(CONFIGS / file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return cfg


def is_dinov3(name: str) -> bool:
    """Return whether the official ViT of a key list is that of Transformers."""
    return name.startswith("dinov3")
