"""Backbones of timm: families at several sizes, training, published files, and what is refused."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Instances
from safetensors.torch import save_file

from segcore.backbones import TimmBackbone, TimmViTPyramid, timm_hub
from segcore.backbones.timm_features import TimmFeatures
from segcore.checkpoint import SafeCheckpointer, local_file
from segcore.config import get_cfg
from segcore.errors import CheckpointError, ConfigError
from small_models import SMALL_MODELS

timm = pytest.importorskip("timm")

BASE = Path(__file__).resolve().parents[3] / "configs/_base_"
FOUR_STAGES = {"depths": (1, 1, 1, 1)}
WINDOWS = {"embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
HEADS = {"num_heads": (1, 2, 3, 4), "embed_dims": (16, 32, 48, 64)}
# Model -> (arguments that make it small, size that it is built for, or () where any will do).
FAMILIES = {
    "resnet18": ({}, ()),
    "convnext_atto": (FOUR_STAGES | {"dims": (8, 16, 24, 32)}, ()),
    "swin_tiny_patch4_window7_224": (WINDOWS, ()),
    "swinv2_tiny_window8_256": (WINDOWS, ()),
    "efficientnet_b0": ({}, ()),
    "mobilenetv4_conv_small": ({}, ()),
    "pvt_v2_b0": (FOUR_STAGES | HEADS, ()),
    "davit_tiny": (FOUR_STAGES | HEADS, ()),
    "hgnetv2_b0": ({}, ()),
    "fastvit_t8": ({"layers": (1, 1, 1, 1)}, ()),
    "test_maxvit": ({}, (64, 64)),
    "hiera_tiny_224": ({"stages": (1, 1, 1, 1), "embed_dim": 16, "num_heads": 1}, (96, 128)),
}
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
VITS = {
    "vit_tiny_patch16_224": VIT,  # absolute positions
    "vit_small_patch14_reg4_dinov2": VIT | {"patch_size": 16},
    "vit_base_patch16_dinov3": VIT,  # rotary positions
    "vit_small_patch32_224": VIT,
    "xcit_nano_12_p8_224": {"depth": 1},
}
SIZES = [(64, 64), (50, 90)]


def build(name: str) -> TimmBackbone | TimmViTPyramid:
    torch.manual_seed(0)
    if name in VITS:
        features = TimmFeatures(name, indices=[-1], image_size=(64, 64), arguments=VITS[name])
        return TimmViTPyramid(features=features, channels=16)
    arguments, size = FAMILIES[name]
    return TimmBackbone(features=TimmFeatures(name, image_size=size, arguments=arguments))


def config(**values: Any) -> CfgNode:
    """Small Mask2Former on a backbone of timm; ``values`` are keys of ``MODEL.TIMM``."""
    cfg = get_cfg()
    cfg.merge_from_file(str(BASE / "mask2former.yaml"))
    cfg.merge_from_list([item for pair in SMALL_MODELS.items() for item in pair])
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "cpu", "TimmBackbone"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    for key, value in values.items():
        cfg.MODEL.TIMM[key] = value
    return cfg


CONVNEXT = {
    "NAME": "convnext_atto",
    "ARGUMENTS": [["depths", [1, 1, 1, 1]], ["dims", [8, 16, 24, 32]]],
}


@pytest.mark.parametrize("name", [*FAMILIES, *VITS])
def test_family(name):
    """Maps of the declared shapes at two sizes, gradients everywhere, and timm's own numbers."""
    backbone = build(name).train()
    shapes = backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    for size in SIZES:
        features = backbone(torch.randn(2, 3, *size))
        for feature, shape in shapes.items():
            expected = (2, shape.channels, *(-(-side // shape.stride) for side in size))
            assert features[feature].shape == expected
    sum(feature.square().mean() for feature in features.values()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []

    whole = timm.create_model(name, **backbone.timm.arguments).eval()
    converted = backbone.convert_published(whole.state_dict(), "file")
    missing = backbone.load_state_dict(converted, strict=False).missing_keys
    assert [name for name in missing if name.startswith("timm.")] == []
    if hasattr(whole, "forward_intermediates"):
        images = torch.randn(1, 3, *backbone.timm.arguments.get("img_size", (64, 64)))
        with torch.no_grad():
            actual = backbone.timm.eval()(images)[-1]
            expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_padding_is_of_zeros_and_is_cut_away():
    backbone, image = build("convnext_atto").eval(), torch.randn(1, 3, 40, 70)
    padded = torch.nn.functional.pad(image, (0, 26, 0, 24))
    with torch.no_grad():
        whole, cut = backbone(padded), backbone(image)
    assert torch.equal(cut["res3"], whole["res3"][..., :5, :9])


def test_models_of_one_size_refuse_larger_images():
    with pytest.raises(ValueError, match=r"MODEL.TIMM.IMG_SIZE: hiera.*\(96, 128\).*\(97, 64\)"):
        build("hiera_tiny_224")(torch.zeros(1, 3, 97, 64))


def test_windows_of_maxvit_divide_padded_sizes():
    backbone = build("test_maxvit").eval()
    assert backbone.timm.input_size == ((64, 64), None)
    assert backbone(torch.zeros(1, 3, 65, 30))["res4"].shape[-2:] == (5, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem_0", "stages_0", "stages_1", "stages_2", "stages_3"]),
        ("vit_tiny_patch16_224", ["model.cls_token", "model.blocks.0", "model.blocks.1"]),
    ],
)
def test_freezing_order(name, expected):
    features = build(name).timm
    parts = features.freezing_order()
    assert len(parts) == len(expected)
    for part, first in zip(parts, expected, strict=True):
        of_part = {
            id(parameter)
            for item in part
            for parameter in (item.parameters() if isinstance(item, torch.nn.Module) else [item])
        }
        inside = {n: id(p) in of_part for n, p in features.model.named_parameters()}
        assert all(inside[n] for n in inside if n.startswith(first))
    items = [item for part in parts for item in part]
    total = sum(
        parameter.numel()
        for item in items
        for parameter in (item.parameters() if isinstance(item, torch.nn.Module) else [item])
    )
    assert total == sum(parameter.numel() for parameter in features.parameters())


def test_options():
    names = ["resnet18", (1, 3), 0.1, "FrozenBN", True]
    name, indices, drop_path_rate, norm, use_checkpoint = names
    features = TimmFeatures(
        name,
        indices=indices,
        drop_path_rate=drop_path_rate,
        norm=norm,
        use_checkpoint=use_checkpoint,
    )
    assert features.strides == [4, 16] and "layer4" not in dict(features.model.named_children())
    kinds = {type(module).__name__ for module in features.modules()}
    assert "FrozenBatchNorm2d" in kinds or "FrozenBatchNormAct2d" in kinds
    assert "BatchNorm2d" not in kinds and "DropPath" in kinds
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    sum(x.sum() for x in features.train()(images)).backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet19", {}, "expected a model of timm, got 'resnet19'"),
        ("resnet18", {"image_size": (64, 64)}, "cannot be built with .*img_size"),
        ("resnet18", {"indices": [7]}, r"OUT_INDICES: expected indices of the 5 maps .*\[7\]"),
        ("pit_ti_224", {}, r"with maps of strides .* 'pit_ti_224', which fails"),
        (
            "vit_small_patch14_dinov2",
            {"indices": [-1]},
            r"with \[14\], which MODEL.TIMM.PATCH_SIZE",
        ),
        ("convnext_atto", {"indices": [0], "arguments": {"depth": 3}}, "cannot be built"),
    ],
)
def test_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        TimmFeatures(name, **arguments)


def test_each_backbone_names_the_other():
    with pytest.raises(ConfigError, match=r"whose maps have stride 16: .*TimmViTPyramid"):
        features = TimmFeatures("vit_tiny_patch16_224", indices=[-1], arguments=VIT)
        TimmBackbone(features=features)
    with pytest.raises(ConfigError, match=r"expected a plain ViT of timm, got 'resnet18'.*TimmB"):
        TimmViTPyramid(features=TimmFeatures("resnet18", indices=[-1]))


def annotated(size: tuple[int, int]) -> Mapping[str, Any]:
    instances = Instances(size)
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, *size, dtype=torch.bool)
    instances.gt_masks[0, :20], instances.gt_masks[1, 20:] = True, True
    return {"image": torch.randint(256, (3, *size), dtype=torch.uint8), "instances": instances}


def test_mask2former_trains_and_starts_from_a_file_of_timm(tmp_path, caplog):
    cfg = config(**CONVNEXT)
    with caplog.at_level(logging.WARNING):
        model = build_model(cfg)
    assert not caplog.records  # the pixels are those of ConvNeXt
    whole = timm.create_model("convnext_atto", **FAMILIES["convnext_atto"][0])
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(tmp_path / "model.safetensors"))
    weight = model.backbone.timm.model.stages_1.blocks[0].conv_dw.weight
    assert torch.equal(weight, whole.stages[1].blocks[0].conv_dw.weight)
    backbone = [name for name in model.state_dict() if name.startswith("backbone.")]
    assert checkpointer.report.loaded == backbone
    assert set(checkpointer.report.left_over) == {
        name for name in whole.state_dict() if name.startswith("head.")
    }

    sum(model.train()([annotated((40, 50)), annotated((37, 64))]).values()).backward()
    (result,) = model.eval()([{"image": torch.zeros(3, 45, 70)}])
    assert result["sem_seg"].shape == (3, 45, 70)


def test_panoptic_segformer_runs_on_a_pyramid():
    cfg = config(NAME="vit_small_patch14_reg4_dinov2", PATCH_SIZE=16, ARGUMENTS=list(VIT.items()))
    cfg.MODEL.BACKBONE.NAME = "TimmViTPyramid"
    cfg.MODEL.META_ARCHITECTURE = "PanopticSegFormer"
    (result,) = build_model(cfg).eval()([{"image": torch.zeros(3, 45, 70)}])
    assert result["panoptic_seg"][0].shape == (45, 70)


def test_other_pixels_are_warned_about(caplog):
    cfg = config(NAME="vit_tiny_patch16_224", OUT_INDICES=[-1], ARGUMENTS=list(VIT.items()))
    cfg.MODEL.BACKBONE.NAME = "TimmViTPyramid"
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
    assert "MODEL.PIXEL_MEAN: [127.5, 127.5, 127.5], MODEL.PIXEL_STD: [127.5" in caplog.text


def test_file_of_another_model(tmp_path):
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors"):
        SafeCheckpointer(build_model(config(**CONVNEXT))).load(str(tmp_path / "other.safetensors"))


def test_weights_of_the_hub(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(repository: str, file: str) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *location: None)
    with pytest.raises(
        CheckpointError,
        match=r"timm://resnet18.a1_in1k: not in the cache .*Download model.safetensors of its "
        "repository timm/resnet18.a1_in1k on a machine with network, and give the file as MODEL.W",
    ):
        local_file("timm://resnet18.a1_in1k")
    with pytest.raises(CheckpointError, match="timm has no model of this name"):
        local_file("timm://resnet19")

    cached = tmp_path / "pytorch_model.bin"
    cached.touch()
    locations = {("timm/resnet18.a1_in1k", "pytorch_model.bin"): str(cached)}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *location: locations.get(location)
    )
    assert local_file(f"{timm_hub.PREFIX}resnet18.a1_in1k") == str(cached)
