"""Published backbones in Detectron2's form."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from segcore.errors import CheckpointError
from segcore.registry import NamedRegistry
from segcore.text import printable

State = Mapping[str, torch.Tensor]
# Converts the state dict of a published backbone to a checkpoint as Detectron2 reads it.
Converter = Callable[[State], dict[str, Any]]
BACKBONE_PREFIX = "backbone."
BACKBONES: NamedRegistry[Converter] = NamedRegistry("--backbone")


def register_backbone(name: str) -> Callable[[Converter], Converter]:
    """Decorate the converter of a kind of published backbone, offered under ``name``."""

    def register(converter: Converter) -> Converter:
        BACKBONES.register(name, converter)
        return converter

    return register


@register_backbone("torchvision-resnet")
def from_torchvision_resnet(state: State) -> dict[str, Any]:
    """Rename the entries of torchvision's ResNet (``layer1.0.bn1`` -> ``res2.0.conv1.norm``).

    Source: the convention of Detectron2's ``ImageNetPretrained/torchvision/R-50.pkl``.

    Raises:
        CheckpointError: no name is that of a torchvision ResNet.
    """
    require_entry(state, "layer1.0.conv1.weight", "a ResNet of torchvision")
    model = {resnet_name(name): tensor for name, tensor in state.items()}
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


@register_backbone("swin")
def from_swin(state: State) -> dict[str, Any]:
    """Convert the ImageNet Swin Transformer of its authors; names are matched by their ends.

    Raises:
        CheckpointError: no name is that of an original Swin Transformer.
    """
    require_entry(state, "layers.0.blocks.0.attn.relative_position_bias_table", "an original Swin")
    return {"model": dict(state), "__author__": "third_party", "matching_heuristics": True}


@register_backbone("pvt-v2")
def from_pvt_v2(state: State) -> dict[str, Any]:
    """Convert the ImageNet PVT v2 of its authors, without the head of the classifier.

    Raises:
        CheckpointError: no name is that of a PVT v2.
    """
    require_entry(state, "block1.0.mlp.dwconv.dwconv.weight", "a PVT v2 classifier")
    return backbone_of(state, other_parts=("head",))


def resnet_name(name: str) -> str:
    """Return Detectron2's name of an entry of torchvision's ResNet."""
    if "layer" not in name:
        name = "stem." + name
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def backbone_of(state: State, other_parts: Collection[str]) -> dict[str, Any]:
    """Return the entries of a classifier except ``other_parts``, with their names in a detector."""
    return {
        "model": {
            BACKBONE_PREFIX + name: tensor
            for name, tensor in state.items()
            if name.split(".")[0] not in other_parts
        }
    }


def require_entry(state: State, name: str, expected: str) -> None:
    """Raise a CheckpointError unless there is an entry of this name."""
    if name not in state:
        raise CheckpointError(
            f"expected {expected}, which has an entry {name}; got {printable(', '.join(state))}"
        )
