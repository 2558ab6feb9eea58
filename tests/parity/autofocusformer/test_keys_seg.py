"""Names and shapes of every published segmentation model's state dict, and its parameter counts."""

import json

import pytest
import torch
from detectron2.modeling import build_model

from parity.golden import GOLDEN_ROOT
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg

FOLDER = GOLDEN_ROOT / "autofocusformer"
TASKS = {
    "ade_sem": "ade20k/semantic-segmentation",
    "city_ins": "cityscapes/instance-segmentation",
    "city_pan": "cityscapes/panoptic-segmentation",
    "coco_ins": "coco/instance-segmentation",
}


def published() -> dict[str, str]:
    """Configuration -> the file that lists its entries."""
    index = FOLDER / "keys_index.json"
    return json.loads(index.read_text())["segmentation"] if index.is_file() else {}


@pytest.mark.skipif(not published(), reason=f"{FOLDER / 'keys_index.json'} is absent")
@pytest.mark.parametrize("name", sorted(published()) or ["none"])
def test_state_dict_entries(name):
    keys = json.loads((FOLDER / published()[name]).read_text())
    task, size = name.split("_aff_")
    (path,) = (CONFIGS / TASKS[task]).glob(f"aff_{size}_bs*.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)

    entries = {name: list(entry.shape) for name, entry in model.state_dict().items()}
    assert entries == {name: shape for name, shape, *_ in keys["entries"]}
    types = {name: str(entry.dtype) for name, entry in model.state_dict().items()}
    for name, _, *dtype in keys["entries"]:
        assert types[name] == f"torch.{(dtype or ['float32'])[0]}", name

    parts = {
        "trainable": model,
        "backbone": model.backbone,
        "pixel_decoder": model.sem_seg_head.pixel_decoder,
        "decoder": model.sem_seg_head.predictor,
    }
    for part, module in parts.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        assert count == keys[f"{part}_parameters"], part


@pytest.mark.skipif(not published(), reason=f"{FOLDER / 'keys_index.json'} is absent")
def test_every_published_configuration_is_indexed():
    found = {path for task in TASKS.values() for path in (CONFIGS / task).glob("aff_*.yaml")}
    assert len(found) == len(published())
    listed = {path.name for path in FOLDER.glob("keys_seg_*.json")}
    assert listed == set(published().values())
