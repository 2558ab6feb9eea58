"""Published backbones in Detectron2's form, as its training starts from them."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from segcore.errors import CheckpointError

State = Mapping[str, torch.Tensor]
BACKBONE_PREFIX = "backbone."


def from_torchvision_resnet(state: State) -> dict[str, Any]:
    """A ResNet of torchvision with Detectron2's names (``layer1.0.bn1`` -> ``res2.0.conv1.norm``).

    Source: the convention of Detectron2's ``ImageNetPretrained/torchvision/R-50.pkl``.

    Raises:
        CheckpointError: no name is that of a torchvision ResNet.
    """
    _require(state, "layer1.0.conv1.weight", "a ResNet of torchvision")
    model = {resnet_name(name): tensor for name, tensor in state.items()}
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


def from_swin(state: State) -> dict[str, Any]:
    """An ImageNet Swin Transformer of its authors: the names stay, the backbone's are their ends.

    Raises:
        CheckpointError: no name is that of an original Swin Transformer.
    """
    _require(state, "layers.0.blocks.0.attn.relative_position_bias_table", "an original Swin")
    return {"model": dict(state), "__author__": "third_party", "matching_heuristics": True}


def from_pvt_v2(state: State) -> dict[str, Any]:
    """The backbone of an ImageNet PVT v2 of its authors; the classifier's head stays behind.

    Raises:
        CheckpointError: no name is that of a PVT v2.
    """
    _require(state, "block1.0.mlp.dwconv.dwconv.weight", "a PVT v2 classifier")
    return _backbone_of(state, other_parts=("head",))


def from_autofocusformer(state: State) -> dict[str, Any]:
    """The backbone of an AutoFocusFormer classifier, published or trained here, under its names in
    a segmentation model. The classifier's last norm and head stay behind: the backbone has norms of
    its own, and a match by the ends of names could put the classifier's elsewhere.

    Raises:
        CheckpointError: no name is that of an AutoFocusFormer.
    """
    _require(state, "layers.0.blocks.0.attn.blank_k", "an AutoFocusFormer classifier")
    return _backbone_of(state, other_parts=("norm", "head"))


BACKBONES: dict[str, Callable[[State], dict[str, Any]]] = {
    "torchvision-resnet": from_torchvision_resnet,
    "swin": from_swin,
    "pvt-v2": from_pvt_v2,
    "autofocusformer": from_autofocusformer,
}


def resnet_name(name: str) -> str:
    """Detectron2's name of an entry of torchvision's ResNet."""
    if "layer" not in name:
        name = "stem." + name
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _backbone_of(state: State, other_parts: Collection[str]) -> dict[str, Any]:
    """Without these parts of a classifier, the rest under its names in a detector."""
    return {
        "model": {
            BACKBONE_PREFIX + name: tensor
            for name, tensor in state.items()
            if name.split(".")[0] not in other_parts
        }
    }


def _require(state: State, name: str, what: str) -> None:
    if name not in state:
        raise CheckpointError(
            f"expected {what}, which has an entry {name}; got {', '.join(state)[:200]}"
        )
