"""Official names, old and new, in a file and in ``load_state_dict``."""

import torch

from panoptic_segformer.checkpoint_names import rename_official
from segcore.checkpoint import SafeCheckpointer

BLOCK, OUR_BLOCK = "bbox_head.stuff_mask_head.blocks.1.", "stuff_mask_decoder.layers.1."
NAMES = {
    "backbone.conv1.weight": "backbone.stem.conv1.weight",
    "backbone.layer4.0.downsample.1.running_var": "backbone.res5.0.shortcut.norm.running_var",
    "neck.extra_convs.0.gn.bias": "neck.extra.0.norm.bias",
    "bbox_head.transformer.level_embeds": "encoder.level_embed",
    "bbox_head.reg_branches.1.4.bias": "location_decoder.bbox_embed.1.layers.2.bias",
    f"{BLOCK}norm3.weight": f"{OUR_BLOCK}norm0.weight",
    f"{BLOCK}attn.linear_l3.0.bias": f"{OUR_BLOCK}cross_attn.mask_level.2.bias",
    "bbox_head.things_mask_head.attnen.linear.0.bias": "thing_mask_decoder.tail.mask_fuse.bias",
}
DEAD = [
    "bbox_head.cls_thing_branches.0.weight",
    "bbox_head.reg_branches2.3.4.bias",
    "backbone.layer1.0.bn1.num_batches_tracked",
]


def test_names():
    assert rename_official(NAMES) == NAMES
    assert rename_official(DEAD) == dict.fromkeys(DEAD)


def test_names_that_stay():
    ours = [*NAMES.values(), "backbone.stem.conv1.norm.num_batches_tracked"]
    others = ["backbone.block1.0.norm1.weight", "backbone.layers.0.downsample.norm.weight"]
    assert rename_official(ours + others) == {}


def test_older_names():
    older = {
        "module.bbox_head.mask_head2.blocks.1.head_norm1.bias": f"{OUR_BLOCK}norm1.bias",
        "module.backbone.bn1.bias": "backbone.stem.conv1.norm.bias",
        "bbox_head.mask_head.blocks.0.mlp.fc1.bias": "thing_mask_decoder.layers.0.mlp.fc1.bias",
        "bbox_head.cls_branches2.0.bias": None,
    }
    assert rename_official(older) == older


def official_state(model):
    """Some entries under official names, and one that is dead."""
    ours = model.state_dict()
    state = {old: torch.full_like(ours[new], 3.0) for old, new in NAMES.items() if new in ours}
    return state | {DEAD[0]: torch.zeros(4, 8)}


def assert_loaded(model):
    parameters = model.state_dict()
    loaded = [new for new in NAMES.values() if new in parameters]
    assert len(loaded) == 6 and all((parameters[name] == 3.0).all() for name in loaded)


def test_official_file(build_small_model, tmp_path):
    model = build_small_model()
    path = tmp_path / "official.pth"
    torch.save({"state_dict": official_state(model), "meta": {"epoch": 24}}, path)
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(path))
    assert_loaded(model)
    report = checkpointer.report
    assert report.dropped == DEAD[:1] and report.left_over == []
    assert len(report.renamed) == len(report.loaded) == 6
    assert "known to be of no use" in report.table()


def test_official_state_dict(build_small_model):
    model = build_small_model()
    state = official_state(model)
    names = set(state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert_loaded(model)
    assert unexpected == [] and len(missing) == len(model.state_dict()) - 6
    assert set(state) == names  # that of the caller is left alone
