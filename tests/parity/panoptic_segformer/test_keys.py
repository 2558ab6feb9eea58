"""Official names, shapes and types of every published model, through the table of names."""

import torch
from detectron2.modeling import build_model

from panoptic_segformer.checkpoint_names import rename_official
from parity.golden import parametrize_keys
from parity.panoptic_segformer.model import official_entries, published_cfg
from segcore.checkpoint import LoadReport
from segcore.checkpoint.model_state import load_state

DEAD = ("cls_thing_branches", "reg_branches2", "num_batches_tracked")


def model_word(keys) -> str:
    return keys.name.removeprefix("keys_")


def published_model(keys):
    cfg = published_cfg(model_word(keys))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def older(name: str) -> str:
    """The name that an older official file may have."""
    name = name.replace(".things_mask_head.", ".mask_head.")
    name = name.replace(".stuff_mask_head.", ".mask_head2.")
    return "module." + name.replace(".cls_thing_branches.", ".cls_branches2.")


@parametrize_keys("panoptic_segformer")
def test_entries(keys):
    facts = {name: (shape, f"torch.{dtype}") for name, shape, dtype in keys.info}
    names = dict(official_entries(model_word(keys)))
    ours = {
        name: (list(entry.shape), str(entry.dtype))
        for name, entry in published_model(keys).state_dict().items()
    }
    assert ours == {our: facts[official] for official, our in names.items() if our is not None}
    assert all(any(part in name for part in DEAD) for name, our in names.items() if our is None)
    assert not rename_official(ours)
    assert rename_official(older(name) for name in names) == {
        older(name): our for name, our in names.items()
    }


@parametrize_keys("panoptic_segformer")
def test_every_entry_is_loaded(keys):
    model = published_model(keys)
    state = {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, shape, dtype in keys.info
    }
    report = LoadReport("official")
    load_state(model, state, rename_official(state), report)
    assert report.fresh() == report.left_over == []
    assert len(report.dropped) + len(report.loaded) == len(state)
