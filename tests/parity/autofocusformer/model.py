"""The segmentation model of a golden case, built from its configuration in neutral words."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from parity.golden import Case
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg

# Words of a case's backbone -> keys of MODEL.AFF.
BACKBONE_KEYS = {
    "embed_dim": "EMBED_DIM",
    "depths": "DEPTHS",
    "num_heads": "NUM_HEADS",
    "mlp_ratio": "MLP_RATIO",
    "cluster_size": "CLUSTER_SIZE",
    "neighbourhood_sizes": "NBHD_SIZE",
    "layer_scale": "LAYER_SCALE",
    "downsampling_rate": "DS_RATE",
    "importance_weight_alpha": "ALPHA",
    "alpha": "ALPHA",
    "reserve_coarse_grid": "RESERVE",
    "patch_norm": "PATCH_NORM",
}
# The size is looked up; offsets are computed, so that there is no table.
WITHOUT_KEY = {"size", "position_table_for_image_side"}


def case_cfg(info: dict[str, Any]) -> CfgNode:
    """The configuration of a backbone or segmentation case, on the CPU, without drop path."""
    variant = info.get("variant", {})
    backbone = info.get("backbone", {})
    size = backbone.get("size", variant.get("backbone", "mini"))
    cfg = get_cfg()
    for part in ("autofocusformer.yaml", f"backbones/aff_{size}.yaml"):
        cfg.merge_from_file(str(CONFIGS / "_base_" / part))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    aff = cfg.MODEL.AFF
    aff.DROP_PATH_RATE = 0.0
    shared = {word: variant[word] for word in BACKBONE_KEYS if word in variant}
    for word, value in (shared | backbone).items():
        if word not in WITHOUT_KEY:
            aff[BACKBONE_KEYS[word]] = value
    _set_head(cfg, variant)
    return cfg


def _set_head(cfg: CfgNode, variant: dict[str, Any]) -> None:
    head, mask_former, aff = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER, cfg.MODEL.AFF
    head.NUM_CLASSES = variant.get("classes", 1)
    head.CONVS_DIM = mask_former.HIDDEN_DIM = variant.get("hidden", 256)
    head.MASK_DIM = variant.get("mask_dim", 256)
    head.TRANSFORMER_ENC_LAYERS = variant.get("encoder_layers", 6)
    heads = variant.get("decoder_heads", 8)
    assert variant.get("encoder_heads", heads) == heads, "one key sets both numbers of heads"
    assert variant.get("encoder_points", 4) == 4, "the encoder's number of points is fixed"
    assert variant.get("encoder_ffn", 1024) == 1024, "the encoder's feed-forward width is fixed"
    mask_former.NHEADS = heads
    mask_former.DIM_FEEDFORWARD = variant.get("decoder_ffn", 2048)
    # The key counts the predictions, one more than there are layers.
    mask_former.DEC_LAYERS = variant.get("decoder_layers", 9) + 1
    mask_former.NUM_OBJECT_QUERIES = variant.get("queries", 100)
    aff.SHEPARD_POWER_LEARNABLE = variant.get("power_learnable", True)
    power = variant.get("inverse_distance_power_on_squared_distance")
    if isinstance(power, int | float):  # else words: the initial value, which is overwritten
        aff.SHEPARD_POWER = 2.0 * power


def build_model_for_case(info: dict[str, Any]) -> nn.Module:
    """The model of a backbone or segmentation case, float64, in eval mode."""
    return build_model(case_cfg(info)).double().eval()


def input_batch(case: Case) -> Tensor:
    """The normalized images of a case, (B, 3, height, width) float64."""
    images = sorted(name for name in case.arrays if name.endswith("_rgb"))
    pixels = torch.stack([torch.from_numpy(case.arrays[name]) for name in images]).double()
    mean, std = (torch.tensor(case.info["input"][key]).double() for key in ("mean", "std"))
    return ((pixels - mean) / std).permute(0, 3, 1, 2)
