"""Checkpoints: official files, differences to a pre-trained ViT, other sizes, pre-trained ViTs."""

import pytest
import timm
import torch

from eomt.checkpoint import PREFIX
from eomt.checkpoint_names import VIT, to_official
from eomt_models import TINY, small_model
from segcore.checkpoint import SafeCheckpointer
from segcore.errors import CheckpointError

DINOV3 = ("MODEL.EOMT.VIT.NAME", "vit_small_patch16_dinov3_qkvb")


def official(model, *, dinov3: bool = False) -> dict[str, torch.Tensor]:
    """The state dict with the names of the official code."""
    state = {"network.encoder.pixel_mean": torch.zeros(1, 3, 1, 1)}
    for name, tensor in model.state_dict().items():
        names = to_official(name.removeprefix(PREFIX), dinov3=dinov3)
        state |= dict(zip(names, tensor.clone().chunk(len(names)), strict=True))
    return state


def assert_same(actual, expected) -> None:
    expected = expected.state_dict()
    for name, tensor in actual.state_dict().items():
        torch.testing.assert_close(
            tensor, expected[name], msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["plain", "lightning", "compiled"])
@pytest.mark.parametrize("dinov3", [False, True])
def test_official_files(kind, dinov3, tmp_path):
    settings = DINOV3 if dinov3 else ()
    theirs, ours = (small_model(*settings, seed=seed) for seed in (0, 1))
    state = official(theirs, dinov3=dinov3)
    if kind == "compiled":
        state = {name.replace("network.", "network._orig_mod.", 1): x for name, x in state.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": state, "epoch": 3} if kind == "lightning" else state, path)
    checkpointer = SafeCheckpointer(ours, complete=True)
    checkpointer.load(str(path))
    assert_same(ours, theirs)
    assert checkpointer.report.missing == []


def test_differences_need_their_base(tmp_path):
    trained = small_model(*DINOV3, seed=0)
    base = small_model(*DINOV3, seed=1).transformer.backbone.vit.state_dict()
    state = official(trained, dinov3=True)
    difference = {
        name: tensor - base[name.removeprefix(PREFIX + VIT)]
        for name, tensor in trained.state_dict().items()
        if name.startswith(PREFIX + VIT)
    }
    for name, tensor in difference.items():
        names = to_official(name.removeprefix(PREFIX), dinov3=True)
        state |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    path, base_path = tmp_path / "pytorch_model.bin", tmp_path / "dinov3.pth"
    torch.save(state, path)
    torch.save(base, base_path)

    with pytest.raises(
        CheckpointError, match=r"difference to a pre-trained.*MODEL.EOMT.DELTA_BASE"
    ):
        SafeCheckpointer(small_model(*DINOV3)).load(str(path))
    ours = small_model(*DINOV3, "MODEL.EOMT.DELTA_BASE", str(base_path), seed=2)
    SafeCheckpointer(ours, complete=True).load(str(path))
    assert_same(ours, trained)
    # A file of one's own training holds no differences.
    torch.save(official(trained, dinov3=True), path)
    SafeCheckpointer(ours, complete=True).load(str(path))
    assert_same(ours, trained)

    del base["norm.weight"]
    torch.save(base, base_path)
    with pytest.raises(CheckpointError, match=r"DELTA_BASE .*norm.weight is missing"):
        SafeCheckpointer(ours).load(str(path))


@pytest.mark.parametrize("size", [[64, 96], [128, 128]])
def test_weights_of_one_size_start_a_model_of_another(size, tmp_path):
    small, large = small_model(), small_model("MODEL.EOMT.INPUT_SIZE", size, seed=1)
    path = tmp_path / "model.pth"
    torch.save({"model": small.state_dict()}, path)
    checkpointer = SafeCheckpointer(large, complete=True)
    checkpointer.load(str(path))
    assert checkpointer.report.other_shape == {}
    positions = large.transformer.backbone.vit.pos_embed
    assert positions.shape == (1, size[0] * size[1] // 256, 32)
    # Resampling keeps the mean, up to the border.
    before = small.transformer.backbone.vit.pos_embed
    torch.testing.assert_close(positions.mean((0, 1)), before.mean((0, 1)), rtol=0.1, atol=2e-3)


def test_pretrained_vit_of_timm(tmp_path):
    name, arguments = "vit_small_patch14_reg4_dinov2", {"img_size": 70, **TINY}
    vit = timm.create_model(name, **arguments)
    path = tmp_path / "vit.pth"
    torch.save(vit.state_dict(), path)
    model = small_model()
    SafeCheckpointer(model).load(str(path))
    ours = model.transformer.backbone.vit
    assert torch.equal(ours.blocks[1].attn.qkv.weight, vit.blocks[1].attn.qkv.weight)
    assert ours.patch_embed.proj.weight.shape[-1] == 16
    expected = timm.layers.resample_patch_embed(vit.patch_embed.proj.weight.detach(), [16, 16])
    torch.testing.assert_close(ours.patch_embed.proj.weight.detach(), expected)


def test_parts_of_a_projection_that_are_missing():
    model = small_model(*DINOV3)
    state = official(model, dinov3=True)
    state.pop("network.encoder.backbone.blocks.0.attention.k_proj.weight")
    with pytest.raises(CheckpointError, match=r"expected query, key and value.*\['q', 'v'\]"):
        model.load_state_dict(state)
