"""Backbone and channel mapper: outputs, inner tensors of PVT v2, names and shapes."""

import ast

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from panoptic_segformer.checkpoint_names import rename_official
from panoptic_segformer.neck import ChannelMapper
from parity.golden import GOLDEN_ROOT, Case, fill_model, parametrize_cases, parametrize_keys
from parity.mask2former.capture import Capture
from parity.mask2former.model import CONFIGS
from segcore.backbones import PyramidVisionTransformerV2
from segcore.config import get_cfg

OUTPUTS = {"C3": "res3", "C4": "res4", "C5": "res5"}


def backbone_cfg(model: str) -> CfgNode:
    """Our configuration of a model by its word in the cases, without drop path."""
    cfg = get_cfg()
    path = CONFIGS / f"coco/panoptic-segmentation/panoptic_segformer_{model}_24e.yaml"
    cfg.merge_from_file(str(path))
    cfg.MODEL.SWIN.DROP_PATH_RATE = cfg.MODEL.PVT.DROP_PATH_RATE = 0.0
    return cfg


def build(cfg: CfgNode) -> nn.ModuleDict:
    """Backbone and channel mapper."""
    backbone = build_backbone(cfg)
    channels = [backbone.output_shape()[name].channels for name in OUTPUTS.values()]
    return nn.ModuleDict({"backbone": backbone, "neck": ChannelMapper(channels, 256)})


@parametrize_cases("panoptic_segformer", "*_backbone")
@torch.no_grad()
def test_backbone(case, comparison):
    cfg = backbone_cfg(case.info["model"])
    model = build(cfg).double().eval()
    keys = Case(GOLDEN_ROOT / f"panoptic_segformer/keys_{case.info['model']}.json")
    fill_model(model, official_names=official_names(keys))
    backbone, neck = model["backbone"], model["neck"]

    modules = {name: at for name, at in inner_modules(backbone).items() if name in case.arrays}
    with Capture(backbone, modules.values()) as capture:
        features = backbone(normalised_image(case, cfg))
    maps = neck([features[name] for name in OUTPUTS.values()])

    actual = {array: features[name] for array, name in OUTPUTS.items()}
    actual |= {f"neck_{level}": of_level for level, of_level in enumerate(maps)}
    actual |= {name: capture.outputs[module].flatten(1, 2) for name, module in modules.items()}
    for name, tensor in actual.items():
        golden = case.arrays[name]
        tolerance = case.info["tolerance"]["float64"]
        comparison.close(name, sampled(case, name, tensor), golden, tolerance, scaled=True)
    comparison.check()


def normalised_image(case: Case, cfg: CfgNode) -> Tensor:
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


def sampled(case: Case, name: str, full: Tensor) -> Tensor:
    """``full`` with the sub-sampling that the array was stored with."""
    info = case.info["arrays"][name]
    assert list(full.shape) == info["full_shape"], name
    steps = ast.literal_eval(info["slice"]) if info.get("slice") else []
    return full[tuple(slice(None, None, int(step.removeprefix("::") or 1)) for step in steps)]


def official_names(keys: Case) -> dict[str, str]:
    """Our name -> official name of the entries of backbone and mapper."""
    official = [name for name, *_ in keys.info if name.startswith(("backbone.", "neck."))]
    renamed = rename_official(official)
    return {renamed.get(name, name): name for name in official}


@parametrize_keys("panoptic_segformer")
def test_entries(keys):
    with torch.device("meta"):
        model = build(backbone_cfg(keys.name.removeprefix("keys_")))
    entries = {
        name: (list(entry.shape), str(entry.dtype)) for name, entry in model.state_dict().items()
    }
    facts = {name: (shape, f"torch.{dtype}") for name, shape, dtype in keys.info}
    names = official_names(keys)
    dead = names.pop(None, None)  # None, or what only ResNets have
    assert dead is None or dead.endswith("num_batches_tracked")
    assert entries == {name: facts[official] for name, official in names.items()}
