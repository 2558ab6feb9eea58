"""Names, shapes and types of every published model's state dict, both ways."""

import torch
from detectron2.modeling import build_model

from eomt.checkpoint import CRITERION, PREFIX
from eomt.checkpoint_names import to_official
from parity.eomt.configs import is_dinov3, published_cfg
from parity.golden import parametrize_keys

STATISTICS = ("network.encoder.pixel_mean", "network.encoder.pixel_std")


def build(name: str) -> torch.nn.Module:
    cfg = published_cfg(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


@parametrize_keys("eomt")
def test_state_dict_entries(keys):
    name = keys.info["config"]
    model = build(name)
    official = {
        entry: (shape, dtype) for entry, shape, dtype in keys.info["entries_name_shape_dtype"]
    }

    ours = {}
    for entry, tensor in model.state_dict().items():
        names = to_official(entry.removeprefix(PREFIX), dinov3=is_dinov3(name))
        shape = [tensor.shape[0] // len(names), *tensor.shape[1:]]
        ours |= dict.fromkeys(names, (shape, str(tensor.dtype).removeprefix("torch.")))
    assert ours == {entry: official[entry] for entry in official if entry not in STATISTICS}
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == keys.info["num_parameters"]


@parametrize_keys("eomt")
def test_official_entries_become_ours(keys):
    model = build(keys.info["config"])
    # Zeros of one element in memory; a norm of ones is no difference to another ViT.
    state = {
        name: torch.ones((), dtype=getattr(torch, dtype)).expand(shape)
        for name, shape, dtype in keys.info["entries_name_shape_dtype"]
        if len(shape) < 2
    } | {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, shape, dtype in keys.info["entries_name_shape_dtype"]
        if len(shape) >= 2
    }
    converted = model.adapt_checkpoint(state, "official")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == expected
    assert any(name.startswith(CRITERION) for name in converted)
