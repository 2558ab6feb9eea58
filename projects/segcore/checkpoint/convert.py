"""Published backbones in Detectron2's form, as its training starts from them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

State = Mapping[str, torch.Tensor]
BACKBONE_PREFIX = "backbone."
# Of an AutoFocusFormer classifier, besides the backbone.
CLASSIFIER_PARTS = ("norm", "head")


def from_torchvision_resnet(state: State) -> dict[str, Any]:
    """A ResNet of torchvision with Detectron2's names (``layer1.0.bn1`` -> ``res2.0.conv1.norm``).

    Source: the convention of Detectron2's ``ImageNetPretrained/torchvision/R-50.pkl``.

    Raises:
        ValueError: no name is that of a torchvision ResNet.
    """
    _require(state, "layer1.0.conv1.weight", "a ResNet of torchvision")
    model = {_resnet_name(name): tensor for name, tensor in state.items()}
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


def from_swin(state: State) -> dict[str, Any]:
    """An ImageNet Swin Transformer of its authors: the names stay, the backbone's are their ends.

    Raises:
        ValueError: no name is that of an original Swin Transformer.
    """
    _require(state, "layers.0.blocks.0.attn.relative_position_bias_table", "an original Swin")
    return {"model": dict(state), "__author__": "third_party", "matching_heuristics": True}


def from_autofocusformer(state: State) -> dict[str, Any]:
    """The backbone of an AutoFocusFormer classifier, published or trained here, under its names in
    a segmentation model. The classifier's last norm and head stay behind: the backbone has norms of
    its own, and a match by the ends of names could put the classifier's elsewhere.

    Raises:
        ValueError: no name is that of an AutoFocusFormer.
    """
    _require(state, "layers.0.blocks.0.attn.blank_k", "an AutoFocusFormer classifier")
    return {
        "model": {
            BACKBONE_PREFIX + name: tensor
            for name, tensor in state.items()
            if name.split(".")[0] not in CLASSIFIER_PARTS
        }
    }


BACKBONES: dict[str, Callable[[State], dict[str, Any]]] = {
    "torchvision-resnet": from_torchvision_resnet,
    "swin": from_swin,
    "autofocusformer": from_autofocusformer,
}


def _resnet_name(name: str) -> str:
    if "layer" not in name:
        name = "stem." + name
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _require(state: State, name: str, what: str) -> None:
    if name not in state:
        raise ValueError(
            f"expected {what}, which has an entry {name}; got {', '.join(state)[:200]}"
        )
