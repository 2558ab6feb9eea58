"""The model of a golden case, built from its configuration in neutral words."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

import mask2former  # noqa: F401  (registers the modules)
from segcore.config import get_cfg

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
BACKBONES = {
    "r50": "resnet50",
    "r101": "resnet101",
    "swin_t": "swin_tiny",
    "swin_s": "swin_small",
    "swin_b": "swin_base_384",
    "swin_l": "swin_large_IN21k_384",
}
# Official files that were named after another schedule than they have.
RENAMED = {
    "ade20k/semantic-segmentation/maskformer2_R101_bs16_90k.yaml": (
        "ade20k/semantic-segmentation/maskformer2_R101_bs16_160k.yaml"
    )
}
# "eval" stands for trainable batch norm with its stored statistics.
BATCH_NORMS = {"frozen": "FrozenBN", "eval": "BN"}


def published_cfg(upstream_config: str, changes: Mapping[str, Any] | None = None) -> CfgNode:
    """Our configuration of the official file ``upstream_config``, on the CPU, without weights.

    Args:
        changes: full key -> value.
    """
    ours = RENAMED.get(upstream_config, upstream_config)
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / ours))
    cfg.merge_from_list([part for change in (changes or {}).items() for part in change])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return cfg


def build_model_for_case(
    config: dict[str, Any], thing_ids: Collection[int] | None = None
) -> nn.Module:
    """The MaskFormer of ``config``, float64, in eval mode, on the CPU.

    Official values hold for what the configuration does not name; dropout and drop path are 0.
    """
    model = build_model(case_cfg(config))
    if thing_ids is not None:
        model.result_maker = dataclasses.replace(model.result_maker, thing_ids=frozenset(thing_ids))
    return model.double().eval()


def case_cfg(config: dict[str, Any]) -> CfgNode:
    """The config node of a case."""
    cfg = get_cfg()
    backbone = backbone_name(config.get("backbone", "r50"))
    for part in ("mask2former.yaml", f"backbones/{backbone}.yaml"):
        cfg.merge_from_file(str(CONFIGS / "_base_" / part))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.0
    if "batchnorm" in config and not backbone.startswith("swin"):
        cfg.MODEL.RESNETS.NORM = BATCH_NORMS[config["batchnorm"]]

    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.NUM_CLASSES = config["num_classes"]
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = config.get("hidden", 256)
    head.TRANSFORMER_ENC_LAYERS = config.get("encoder_layers", 6)
    mask_former.NUM_OBJECT_QUERIES = config.get("num_queries", 100)
    mask_former.NHEADS = config.get("heads", 8)
    mask_former.DIM_FEEDFORWARD = config.get("ffn_decoder", 2048)
    # The key counts the predictions, one more than there are layers.
    mask_former.DEC_LAYERS = config.get("decoder_layers", 9) + 1
    mask_former.DROPOUT = 0.0
    assert config.get("ffn_encoder", 1024) == 1024, "the encoder's feed-forward width is fixed"

    test = mask_former.TEST
    test.SEMANTIC_ON = config.get("semantic_on", True)
    test.INSTANCE_ON = config.get("instance_on", False)
    test.PANOPTIC_ON = config.get("panoptic_on", False)
    test.OBJECT_MASK_THRESHOLD = config.get("object_mask_threshold", 0.8)
    test.OVERLAP_THRESHOLD = config.get("overlap_threshold", 0.8)
    cfg.TEST.DETECTIONS_PER_IMAGE = config.get("topk_per_image", 100)
    return cfg


def require_official_entries(model: nn.Module, keys: dict[str, Any]) -> None:
    """Fail unless names, shapes and types of the state dict are those of ``keys_*.json``."""
    entries = {
        name: (list(entry.shape), str(entry.dtype).removeprefix("torch."))
        for name, entry in model.state_dict().items()
    }
    official = {name: (shape, dtype) for name, shape, dtype in keys["entries_name_shape_dtype"]}
    assert entries == official
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == keys["num_parameters"]


def backbone_name(name: str) -> str:
    """The file of ``configs/_base_/backbones`` that a case's word for a backbone means."""
    name = name.lower().replace("-", "_")
    for short, file in BACKBONES.items():
        size = file.removesuffix("_IN21k_384").removesuffix("_384")
        if name.startswith((short, size)):
            return file
    raise ValueError(f"backbone: expected one of {sorted(BACKBONES)}, got {name!r}")
