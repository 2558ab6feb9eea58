"""Checkpoints in the form of the Transformers library: a folder with weights and configuration."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from safetensors.torch import save
from torch import Tensor

from segcore.files import atomic_folder, write_bytes, write_json
from segcore.registry import NamedRegistry

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"


class TransformersModel(NamedTuple):
    """Weights by the names of Transformers, and the content of the two files beside them."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    preprocessor: dict[str, Any]


# Convert a state dict, with the config and the class names of its model.
Exporter = Callable[[Mapping[str, Tensor], CfgNode, Sequence[str]], TransformersModel]
# By MODEL.META_ARCHITECTURE.
EXPORTERS: NamedRegistry[Exporter] = NamedRegistry("MODEL.META_ARCHITECTURE")


def write_transformers(model: TransformersModel, folder: str | Path) -> None:
    """Write a folder that ``from_pretrained`` takes; it must not exist.

    Raises:
        OutputError: the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state.items()}
    with atomic_folder(folder) as partial:
        write_bytes(save(tensors, {"format": "pt"}), partial / WEIGHTS_FILE)
        write_json(model.config, partial / CONFIG_FILE)
        write_json(model.preprocessor, partial / PREPROCESSOR_FILE)


def weights_of_folder(path: str | Path) -> Path | None:
    """Return the file of the weights in a folder of Transformers, None for anything else."""
    weights = Path(path, WEIGHTS_FILE)
    return weights if weights.is_file() and Path(path, CONFIG_FILE).is_file() else None
