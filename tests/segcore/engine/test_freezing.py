"""Frozen stages: which parameters, in which mode, and how far a backbone can be frozen."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from torch import nn

from autofocusformer.backbone import AutoFocusFormer
from segcore.backbones import D2SwinTransformer, PyramidVisionTransformerV2
from segcore.engine.freezing import EvaluationMode, freeze_stages
from segcore.errors import ConfigError

SMALL = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


def resnet(feature_pyramid: bool = False) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    return FPN(backbone, ["res5"], 8) if feature_pyramid else backbone


def vit() -> nn.Module:
    pytest.importorskip("timm")
    from eomt.vit import TimmViT

    small = {"embed_dim": 8, "depth": 4, "num_heads": 1}
    return TimmViT("vit_tiny_patch16_224", (32, 32), arguments=small)


# Name -> the backbone, and the parameters that no part has: those of its features, not of stages.
BACKBONES = {
    "resnet": (resnet, ()),
    "fpn": (lambda: resnet(feature_pyramid=True), ("fpn_",)),
    "swin": (lambda: D2SwinTransformer(embed_dim=4, absolute_position=True, **SMALL), ("norm",)),
    "pvt": (lambda: PyramidVisionTransformerV2(embed_dims=(4, 4, 4, 4), **SMALL), ()),
    "aff": (lambda: AutoFocusFormer(embed_dim=(4, 4, 4, 4), **SMALL), ("norm",)),
    "vit": (vit, ("vit.norm.",)),
}


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", BACKBONES)
def test_parts_are_frozen_one_by_one(name):
    build, never = BACKBONES[name]
    with torch.device("meta"):
        model = nn.ModuleDict({"backbone": build(), "head": nn.Linear(2, 2)})
    left = [trained(model)]
    for count in range(1, 6):
        freeze_stages(model, count)
        left.append(trained(model))
        assert left[-1] < left[-2]
    rest = {n for n in left[-1] if not n.startswith("head.")}
    assert rest == {n for n in left[0] if n.removeprefix("backbone.").startswith(never or "?")}
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.FREEZE: expected at most 5, .* got 6"):
        freeze_stages(model, 6)


def test_frozen_modules_stay_in_evaluation_mode():
    model = nn.ModuleDict({"backbone": resnet()}).train()
    hook = EvaluationMode(freeze_stages(model, 2))
    hook.before_step()
    backbone = model["backbone"]
    assert not backbone.stem.conv1.norm.training and not backbone.res2[0].conv1.norm.training
    assert backbone.res3[0].conv1.norm.training


def test_nothing_is_frozen_by_default():
    model = nn.Linear(2, 2)
    assert freeze_stages(model, 0) == []
    assert trained(model) == {"weight", "bias"}
    with pytest.raises(ConfigError, match="expected 0, as Linear has no backbone"):
        freeze_stages(model, 1)
