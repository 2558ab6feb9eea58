"""Backbone and channel mapper: outputs, inner tensors of PVT v2."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from panoptic_segformer.neck import ChannelMapper
from parity.golden import Case, fill_model, parametrize_cases
from parity.mask2former.capture import Capture
from parity.panoptic_segformer.model import case_cfg, official_entries
from segcore.backbones import PyramidVisionTransformerV2

OUTPUTS = {"C3": "res3", "C4": "res4", "C5": "res5"}


def build(cfg: CfgNode) -> nn.ModuleDict:
    """Backbone and channel mapper."""
    backbone = build_backbone(cfg)
    channels = [backbone.output_shape()[name].channels for name in OUTPUTS.values()]
    return nn.ModuleDict({"backbone": backbone, "neck": ChannelMapper(channels, 256)})


@parametrize_cases("panoptic_segformer", "*_backbone")
@torch.no_grad()
def test_backbone(case, comparison):
    cfg = case_cfg({}, case.info["model"])
    model = build(cfg).double().eval()
    entries = official_entries(case.info["model"])
    fill_model(model, official_names={ours: official for official, ours in entries})
    backbone, neck = model["backbone"], model["neck"]

    modules = {name: at for name, at in inner_modules(backbone).items() if name in case.arrays}
    with Capture(backbone, modules.values()) as capture:
        features = backbone(normalized_image(case, cfg))
    maps = neck([features[name] for name in OUTPUTS.values()])

    actual = {array: features[name] for array, name in OUTPUTS.items()}
    actual |= {f"neck_{level}": of_level for level, of_level in enumerate(maps)}
    actual |= {name: capture.outputs[module].flatten(1, 2) for name, module in modules.items()}
    for name, tensor in actual.items():
        golden = case.arrays[name]
        tolerance = case.info["tolerance"]["float64"]
        comparison.close(name, case.sampled(name, tensor), golden, tolerance, scaled=True)
    comparison.require_results(case.arrays, results=r"C\d|neck_\d", inputs="image_rgb")
    comparison.check()


def normalized_image(case: Case, cfg: CfgNode) -> Tensor:
    pixels = torch.from_numpy(case.arrays["image_rgb"]).double()
    mean, std = torch.tensor([cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD]).double()
    return ((pixels - mean) / std).permute(2, 0, 1).unsqueeze(0)


def inner_modules(backbone: nn.Module) -> dict[str, str]:
    """Stored token sequences -> the modules of PVT v2 that they leave; none of other backbones."""
    if not isinstance(backbone, PyramidVisionTransformerV2):
        return {}
    modules = {}
    for s in range(1, 5):
        modules[f"patch_embed{s}"] = f"patch_embed{s}"
        modules[f"stage{s}_block0_attn"] = f"block{s}.0.attn"
        modules[f"stage{s}_block0_mlp"] = f"block{s}.0.mlp"
        modules[f"stage{s}_block0"] = f"block{s}.0"
        modules[f"stage{s}_last"] = f"block{s}.{len(backbone.get_submodule(f'block{s}')) - 1}"
    return modules
