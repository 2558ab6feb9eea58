"""The PVT v2 backbone, against attention written out and the published sizes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from torch import nn

from backbone_models import randomised
from segcore.backbones import PyramidVisionTransformerV2
from segcore.backbones.features import drop_path_rates
from segcore.backbones.pvt_v2 import OverlappingPatchEmbed, SpatialReductionAttention
from segcore.config import get_cfg

BASE = Path(__file__).resolve().parents[3] / "configs/_base_"
SMALL = {"embed_dims": (8, 8, 12, 16), "num_heads": (1, 2, 2, 4), "depths": (1, 1, 2, 1)}
# Backbone of B0, B2, B5 as the published code builds them.
PARAMETERS = {"b0": 3_409_760, "b2": 24_849_856, "b5": 81_443_008}


def small(**arguments) -> PyramidVisionTransformerV2:
    return randomised(PyramidVisionTransformerV2(**SMALL | arguments))


def image(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *size, dtype=torch.float64)


def load(*parts: str) -> CfgNode:
    cfg = get_cfg()
    for part in parts:
        cfg.merge_from_file(str(BASE / part))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return cfg


@pytest.mark.parametrize("variant", [f"b{number}" for number in range(6)])
def test_published_variants(variant):
    cfg = load(f"backbones/pvt_v2_{variant}.yaml")
    with torch.device("meta"):
        model = build_backbone(cfg)
    width, last_width = (32, 256) if variant == "b0" else (64, 512)
    shapes = model.output_shape()
    assert (shapes["res2"].channels, shapes["res5"].channels) == (width, last_width)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS.get(variant, count)
    last = model.block4[-1]
    assert last.drop_path.p == pytest.approx(0.1) and model.block1[0].drop_path.p == 0
    assert last.mlp.fc1.out_features == 4 * last_width
    first_ratio = model.block1[0].mlp.fc1.out_features / width
    assert first_ratio == (4 if variant == "b5" else 8)


def test_defaults_are_b0():
    with torch.device("meta"):
        default = build_backbone(load("backbones/pvt_v2_b0.yaml"))
        assert str(default) == str(PyramidVisionTransformerV2())


def attention_written_out(attention: SpatialReductionAttention, x: torch.Tensor) -> torch.Tensor:
    """Of one map (H, W, C), head by head, over a map reduced patch by patch."""
    height, width, dim = x.shape
    reduction, head_dim = attention.reduction, dim // attention.num_heads
    reduced = []
    for top in range(0, height - reduction + 1, reduction):
        for left in range(0, width - reduction + 1, reduction):
            patch = x[top : top + reduction, left : left + reduction].permute(2, 0, 1)
            cell = (attention.sr.weight * patch).sum((1, 2, 3)) + attention.sr.bias
            mean, variance = cell.mean(), cell.var(unbiased=False)
            cell = (cell - mean) / (variance + 1e-5).sqrt()
            reduced.append(cell * attention.norm.weight + attention.norm.bias)
    query = attention.q(x.flatten(0, 1))
    keys_and_values = attention.kv(torch.stack(reduced))
    out = []
    for head in range(attention.num_heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        key, value = keys_and_values[:, :dim][:, columns], keys_and_values[:, dim:][:, columns]
        out.append((query[:, columns] @ key.T / head_dim**0.5).softmax(-1) @ value)
    return attention.proj(torch.cat(out, dim=1)).view(x.shape)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 3)])
@torch.no_grad()
def test_attention_drops_incomplete_rows_and_columns(size):
    attention = randomised(SpatialReductionAttention(8, 2, 2))
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    expected = torch.stack([attention_written_out(attention, one) for one in x])
    torch.testing.assert_close(attention(x), expected)


@torch.no_grad()
def test_a_map_smaller_than_its_reduction_is_padded_with_zeros():
    attention = randomised(SpatialReductionAttention(8, 2, 4))
    x = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    expected = attention_written_out(attention, padded[0])[:3]
    torch.testing.assert_close(attention(x)[0], expected)


@torch.no_grad()
def test_patches_overlap():
    embed = randomised(OverlappingPatchEmbed(3, 8, stride=4))
    first = image(16, 16)
    second = first.clone()
    second[..., 7, 7] += 1  # within 3 pixels of the patches 1 and 2 on both axes
    changed = (embed(first) != embed(second)).any(-1)[0]
    assert changed[1:3, 1:3].all() and changed.sum() == 4


@pytest.mark.parametrize("size", [(1, 1), (37, 70), (64, 3), (31, 33)])
def test_any_size_trains(size):
    model = small().train()
    features = model(image(*size, batch=2))
    for stride, feature in zip((4, 8, 16, 32), features.values(), strict=True):
        assert feature.shape[2:] == tuple(-(-side // stride) for side in size)
        assert feature.is_contiguous() and feature.isfinite().all()
    sum(feature.square().mean() for feature in features.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_the_normalised_map_flows_on():
    model, pixels = small(), image(32, 32)
    before = model(pixels)
    model.norm1.weight.mul_(2)
    model.norm1.bias.mul_(2)
    after = model(pixels)
    torch.testing.assert_close(after["res2"], 2 * before["res2"])
    assert not torch.allclose(before["res3"], after["res3"])


def test_norms_have_two_epsilons():
    model = PyramidVisionTransformerV2(**SMALL)
    of = {name: norm.eps for name, norm in model.named_modules() if isinstance(norm, nn.LayerNorm)}
    for name, eps in of.items():
        assert eps == (1e-5 if "patch_embed" in name or "attn" in name else 1e-6), name
    assert {name for name in of if "attn" in name} == {
        f"block{stage}.{block}.attn.norm" for stage, block in ((1, 0), (2, 0), (3, 0), (3, 1))
    }


@torch.no_grad()
def test_initial_weights():
    model = PyramidVisionTransformerV2()
    linear, convolution = model.block3[0].mlp.fc1, model.block3[0].mlp.dwconv.dwconv
    assert linear.weight.std() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    # Fan-out of a depth-wise convolution: its 9 weights.
    assert convolution.weight.std() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert not convolution.bias.any()


def test_drop_path_grows_linearly():
    rates = drop_path_rates(0.4, (1, 1, 2, 1))
    for stage, expected in zip(rates, ([0.0], [0.1], [0.2, 0.3], [0.4]), strict=True):
        assert stage == pytest.approx(expected)
    blocks = [block for number in range(1, 5) for block in getattr(small(), f"block{number}")]
    assert [block.drop_path.p for block in blocks] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


def test_wanted_features_only():
    cfg = load("backbones/pvt_v2_b0.yaml")
    cfg.MODEL.PVT.OUT_FEATURES = ["res5", "res3"]
    model = build_backbone(cfg)
    shapes = {name: (shape.channels, shape.stride) for name, shape in model.output_shape().items()}
    assert shapes == {"res3": (64, 8), "res5": (256, 32)}
    assert model.size_divisibility == 32
    assert list(model(torch.zeros(1, 3, 32, 32))) == ["res3", "res5"]


@torch.no_grad()
def test_mask2former_runs_on_it():
    cfg = load("mask2former.yaml", "backbones/pvt_v2_b0.yaml")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    model = build_model(cfg).eval()
    (result,) = model([{"image": torch.zeros(3, 45, 70)}])
    assert result["sem_seg"].shape == (5, 45, 70)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_features": ["res6"]}, r"out_features: expected some of .*, got \['res6'\]"),
        ({"sr_ratios": (8, 4, 2)}, r"sr_ratios: expected 4 numbers, got \[8, 4, 2\]"),
        ({"num_heads": (3, 1, 1, 1)}, r"num_heads: expected divisors .*, got \[3, 1, 1, 1\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PyramidVisionTransformerV2(**SMALL | arguments)
