import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone

from segcore.backbones.resnet import backbone_features

FEATURES = ["stem", "res2", "res3", "res4", "res5"]


def resnet(depth, stages=FEATURES):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.OUT_FEATURES, resnets.WIDTH_PER_GROUP = depth, stages, 8
    resnets.RES2_OUT_CHANNELS = resnets.STEM_OUT_CHANNELS = 64 if depth < 50 else 32
    if depth < 50:
        resnets.WIDTH_PER_GROUP = 64
    torch.manual_seed(0)
    backbone = build_backbone(cfg)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
            module.weight.uniform_(0.3, 0.9)
    return backbone


@pytest.mark.parametrize("depth", [18, 50])
def test_features_are_those_of_the_backbone(depth):
    backbone, images = resnet(depth), torch.randn(2, 3, 64, 96)
    expected = backbone(images)
    with torch.no_grad():
        for actual in (backbone_features(backbone, images), backbone_features(backbone, images)):
            assert list(actual) == FEATURES
            for name, feature in actual.items():
                scale = expected[name].abs().max()
                torch.testing.assert_close(feature / scale, expected[name] / scale)


def test_only_features_that_are_asked_for():
    backbone = resnet(18, ["res3"])
    with torch.no_grad():
        assert list(backbone_features(backbone, torch.randn(1, 3, 32, 32))) == ["res3"]


def test_hooks_of_parts_are_called():
    backbone, calls = resnet(18), []
    backbone.res3[0].conv1.register_forward_hook(lambda *arguments: calls.append(1))
    with torch.no_grad():
        backbone_features(backbone, torch.randn(1, 3, 32, 32))
    assert calls
