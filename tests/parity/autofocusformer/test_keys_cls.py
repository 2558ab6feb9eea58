"""Names, shapes and types of every published classifier's state dict, and its parameter count."""

import json

import pytest
import torch
from detectron2.modeling import build_model

from parity.golden import GOLDEN_ROOT
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg

FOLDER = GOLDEN_ROOT / "autofocusformer"
RECIPES = CONFIGS / "imagenet" / "classification"


def published() -> dict[str, str]:
    """Configuration -> the file that lists its entries."""
    index = FOLDER / "keys_index.json"
    return json.loads(index.read_text())["classification"] if index.is_file() else {}


@pytest.mark.skipif(not published(), reason=f"{FOLDER / 'keys_index.json'} is absent")
@pytest.mark.parametrize("name", sorted(published()) or ["none"])
def test_state_dict_entries(name):
    keys = json.loads((FOLDER / published()[name]).read_text())
    cfg = get_cfg()
    cfg.merge_from_file(str(RECIPES / f"{name}.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)

    entries = {
        name: (list(entry.shape), str(entry.dtype).removeprefix("torch."))
        for name, entry in model.state_dict().items()
    }
    official = {name: (shape, (dtype or ["float32"])[0]) for name, shape, *dtype in keys["entries"]}
    assert entries == official
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == keys["trainable_parameters"]


@pytest.mark.skipif(not published(), reason=f"{FOLDER / 'keys_index.json'} is absent")
def test_every_published_configuration_is_indexed():
    assert {path.stem for path in RECIPES.glob("aff_*.yaml")} == set(published())
    assert {path.name for path in FOLDER.glob("keys_cls_*.json")} == set(published().values())
