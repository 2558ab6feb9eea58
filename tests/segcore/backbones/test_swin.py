"""The Swin backbone, against torchvision's and against attention written out."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from torchvision.models.swin_transformer import SwinTransformer

from backbone_models import randomised
from segcore.backbones import D2SwinTransformer, swin
from segcore.backbones.swin import WindowAttention, relative_position_index
from segcore.config import get_cfg
from segcore.ops.windows import MASKED, shift_mask, window_merge, window_partition

SMALL = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 4}


def small(**arguments) -> D2SwinTransformer:
    return randomised(D2SwinTransformer(**SMALL | arguments))


def our_name(torchvision_name: str) -> str | None:
    part, stage, *rest = torchvision_name.split(".")
    if part != "features":
        return None
    stage = int(stage)
    if stage == 0:
        return "patch_embed." + {"0": "proj", "2": "norm"}[rest[0]] + "." + rest[1]
    if stage % 2 == 0:
        return f"layers.{stage // 2 - 1}.downsample.{'.'.join(rest)}"
    block = ".".join(rest).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
    return f"layers.{stage // 2}.blocks.{block}"


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("size", [(256, 256), (160, 203)], ids=["even", "padded"])
def test_equals_torchvision(size, gradient):
    """Where every map is larger than a window: torchvision does not shift smaller ones."""
    theirs = randomised(SwinTransformer([4, 4], 8, [2, 2, 2, 2], [1, 2, 2, 4], [4, 4]))
    ours = small()
    entries = ours.state_dict()
    weights = {our_name(name): value for name, value in theirs.state_dict().items()}
    weights = {name: value.view_as(entries[name]) for name, value in weights.items() if name}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"norm0", "norm1", "norm2", "norm3"}

    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.set_grad_enabled(gradient):
        features = ours(image)
    x = theirs.features[0](F.pad(image, (0, -size[1] % 4, 0, -size[0] % 4)))
    for stage in range(4):
        x = theirs.features[2 * stage + 1](x)
        expected = getattr(ours, f"norm{stage}")(x).permute(0, 3, 1, 2)
        torch.testing.assert_close(features[f"res{stage + 2}"], expected)
        if stage < 3:
            x = theirs.features[2 * stage + 2](x)


def attention_written_out(attention: WindowAttention, x, window: int, shift: int):
    """(Shifted-)window attention of one map (H, W, C), cell by cell."""
    height, width, dim = x.shape
    padded = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = padded.shape[:2]
    heads, head_dim = attention.num_heads, dim // attention.num_heads
    query, key, value = attention.qkv(padded).view(rows, columns, 3, heads, head_dim).unbind(2)

    def window_of(y, x):  # in the map rolled by -shift
        return (y - shift) % rows // window, (x - shift) % columns // window

    def part_of(y, x):  # cells that the roll brought to the other side are strangers
        return shift and y < shift, shift and x < shift

    out = torch.zeros_like(padded)
    cells = [(y, x) for y in range(rows) for x in range(columns)]
    for yq, xq in cells:
        mates = [cell for cell in cells if window_of(*cell) == window_of(yq, xq)]
        logits = []
        for yk, xk in mates:
            ry = (yq - shift) % rows % window - (yk - shift) % rows % window + window - 1
            rx = (xq - shift) % columns % window - (xk - shift) % columns % window + window - 1
            logit = (query[yq, xq] * key[yk, xk]).sum(-1) / head_dim**0.5
            logit = logit + attention.relative_position_bias_table[ry * (2 * window - 1) + rx]
            logits.append(logit + (MASKED if part_of(yq, xq) != part_of(yk, xk) else 0.0))
        weight = torch.stack(logits).softmax(0)
        values = torch.stack([value[cell] for cell in mates])
        out[yq, xq] = (weight.unsqueeze(-1) * values).sum(0).flatten()
    return attention.proj(out)[:height, :width]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (3, 4), (1, 1)])
@torch.no_grad()
def test_attention_of_a_block(size, shift):
    """Padded keys take part, and the shift is applied even to a map within one window."""
    stage = small().layers[1]
    block = stage.blocks[1 if shift else 0]
    assert block.shift == shift
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    padded = [-(-length // 4) * 4 for length in size]
    mask = shift_mask(*padded, 4, (2, 2), like=x) if shift else None
    ours = block._attend(x, mask)
    for image in range(2):
        expected = attention_written_out(block.attn, x[image], 4, shift)
        torch.testing.assert_close(ours[image], expected)


@pytest.mark.parametrize("size", [(16, 16), (5, 9), (13, 4), (10, 30), (3, 4), (1, 1)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_inference_in_strips_equals_training(size, qkv_bias, monkeypatch):
    """A map of several strips, or of one; windows whose rows are partly, or all, beyond it."""
    monkeypatch.setattr(swin, "ROWS", 100)
    stage = small(qkv_bias=qkv_bias).layers[1]
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    expected = stage(x)
    with torch.no_grad():
        torch.testing.assert_close(stage(x), expected)
        x, stage = x.float(), stage.float()
        torch.testing.assert_close(stage(x), expected.float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_hooks_have_seen_is_not_overwritten():
    block = small().layers[1].blocks[0].float()
    seen = []
    for part in (block.attn.proj, block.norm2, block.mlp):
        part.register_forward_hook(lambda *hooked: seen.append((hooked[2], hooked[2].clone())))
    block(torch.randn(1, 8, 8, 16), None)
    assert len(seen) == 3 and all(torch.equal(*pair) for pair in seen)


def test_windows_come_and_go():
    x = torch.randn(2, 8, 12, 3)
    windows = window_partition(x, 4)
    assert windows.shape == (2 * 6, 16, 3)
    assert torch.equal(windows[1].view(4, 4, 3), x[0, :4, 4:8])
    assert torch.equal(window_merge(windows, 4, 8, 12), x)


def test_relative_position_index():
    index = relative_position_index(3)
    assert index.dtype == torch.int64
    assert index[0, 0] == index[4, 4] == 2 * 5 + 2  # a cell and itself
    assert index[0, 8] == 0  # upper left seen from ... lower right: smallest difference
    assert index[8, 0] == 24


def test_odd_sizes_and_tiny_maps():
    with torch.no_grad():
        features = small()(torch.randn(1, 3, 37, 70, dtype=torch.float64))
    assert [tuple(f.shape) for f in features.values()] == [
        (1, 8, 10, 18),
        (1, 16, 5, 9),
        (1, 32, 3, 5),
        (1, 64, 2, 3),
    ]
    assert all(f.isfinite().all() for f in features.values())


def test_emits_normalised_and_passes_on_unnormalised():
    model = small()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    before = model(image)
    with torch.no_grad():
        model.norm0.weight.mul_(2)
        model.norm0.bias.zero_()
    after = model(image)
    assert not torch.allclose(before["res2"], after["res2"])
    torch.testing.assert_close(before["res3"], after["res3"])


def test_drop_path_grows_linearly():
    model = small(drop_path_rate=0.7)
    rates = [block.drop_path.p for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_absolute_position_embedding_is_resized():
    model = small(absolute_position=True, pretrain_img_size=32)
    assert model.absolute_pos_embed.shape == (1, 8, 8, 8)
    image = torch.randn(1, 3, 48, 64, dtype=torch.float64)
    moved = model(image)["res2"]
    with torch.no_grad():
        model.absolute_pos_embed.zero_()
    assert not torch.allclose(moved, model(image)["res2"])


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    cfg.MODEL.SWIN.EMBED_DIM = 24
    cfg.MODEL.SWIN.DEPTHS = [1, 1, 2, 1]
    cfg.MODEL.SWIN.OUT_FEATURES = ["res3", "res5"]
    model = build_backbone(cfg)
    shapes = model.output_shape()
    assert {name: (s.channels, s.stride) for name, s in shapes.items()} == {
        "res3": (48, 8),
        "res5": (192, 32),
    }
    assert model.size_divisibility == 32
    assert not hasattr(model, "norm0")  # it would never get a gradient
    assert model(torch.zeros(1, 3, 32, 32)).keys() == {"res3", "res5"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_features": ["res6"]}, "out_features among"),
        ({"num_heads": (1, 2)}, "as many num_heads as depths"),
        ({"num_heads": (3, 3, 3, 3)}, "8 channels are not divisible by 3 heads"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        D2SwinTransformer(**SMALL | arguments)
