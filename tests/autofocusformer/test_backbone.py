from itertools import pairwise

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from autofocusformer.tokens import Tokens
from segcore.backbones.features import TokenShape, are_tokens
from segcore.config import get_cfg

NAMES = ["res2", "res3", "res4", "res5"]


def images(*size, batch=1):
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(batch, 3, *size, generator=generator)


@torch.no_grad()
def test_tokens_of_all_stages(build_backbone):
    backbone = build_backbone()
    features = backbone(images(62, 77, batch=2))
    assert list(features) == NAMES
    counts = [16 * 20, 80, 20, 5]
    for (name, tokens), count in zip(features.items(), counts, strict=True):
        assert isinstance(tokens, Tokens)
        channels = backbone.output_shape()[name].channels
        assert tokens.features.shape == (2, count, channels)
        assert tokens.canvas == (16, 20)
        assert tokens.positions.dtype == torch.float32
        assert (tokens.positions == tokens.positions.round()).all()
        assert all(len(set(cells)) == count for cells in tokens.cells.tolist())
    cells = features["res2"].cells.sort(dim=1).values
    assert torch.equal(cells, torch.arange(320).expand(2, -1))
    finer = set(features["res3"].cells[0].tolist())
    assert set(features["res4"].cells[0].tolist()) <= finer


@pytest.mark.parametrize(
    "size", [(1, 1), (4, 4), (5, 9), (20, 20), (4, 400), (400, 4), (1, 300), (33, 512)]
)
def test_small_images_and_extreme_shapes_train(build_backbone, size):
    backbone = build_backbone().train()
    backbone.patch_embed.bn.eval()  # a single pixel has no variance
    features = backbone(images(*size))
    canvas = tuple(-(-side // 4) for side in size)
    for tokens in features.values():
        assert tokens.canvas == canvas
        assert tokens.features.isfinite().all()
    sum(tokens.features.square().sum() for tokens in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_no_state_between_images(build_backbone):
    backbone = build_backbone()
    first = backbone(images(40, 48))
    backbone(images(64, 32, batch=2))
    again = backbone(images(40, 48))
    for name in NAMES:
        assert torch.equal(first[name].features, again[name].features)
        assert torch.equal(first[name].positions, again[name].positions)


@torch.no_grad()
def test_an_image_can_be_independent_of_its_batch(build_backbone):
    backbone = build_backbone(per_image=True)
    pair = torch.cat([images(64, 80), 3 * images(64, 80).flip(-1)])
    together, alone = backbone(pair), backbone(pair[:1])
    for name in NAMES:
        assert torch.equal(together[name].positions[:1], alone[name].positions)
        torch.testing.assert_close(together[name].features[:1], alone[name].features)


@torch.no_grad()
def test_padding_is_only_for_segmentation(build_backbone):
    padded = build_backbone()(images(30, 30))["res2"]
    by_hand = build_backbone(pad=False)(torch.nn.functional.pad(images(30, 30), (0, 2, 0, 2)))
    torch.testing.assert_close(padded.features, by_hand["res2"].features)
    unpadded = build_backbone(pad=False)(images(30, 30))["res2"]
    assert unpadded.canvas == (8, 8)
    assert not torch.allclose(padded.features, unpadded.features)


def test_wanted_features_only(build_backbone):
    backbone = build_backbone(out_features=["res5", "res3"])
    assert list(backbone.output_shape()) == ["res3", "res5"]
    assert not hasattr(backbone, "norm0") and hasattr(backbone, "norm1")
    assert list(backbone(images(32, 32))) == ["res3", "res5"]


def test_bad_arguments(build_backbone):
    with pytest.raises(ValueError, match=r"num_heads: expected 4 positive numbers.*got \[2, 4\]"):
        build_backbone(num_heads=[2, 4])
    with pytest.raises(ValueError, match=r"out_features: expected some of .*got \['res9'\]"):
        build_backbone(out_features=["res9"])
    with pytest.raises(ValueError, match=r"rate: expected a share in \(0, 1\], got 1.5"):
        build_backbone(rate=1.5)
    with pytest.raises(ValueError, match="cluster_size: expected at least 1, got 0"):
        build_backbone(cluster_size=0)
    with pytest.raises(ValueError, match=r"images: expected a batch .*got \(3, 8, 8\)"):
        build_backbone()(torch.zeros(3, 8, 8))


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "AutoFocusFormer"
    cfg.MODEL.AFF.merge_from_other_cfg(
        CfgNode(
            {
                "EMBED_DIM": [8, 8, 8, 8],
                "NUM_HEADS": [2, 2, 2, 2],
                "DS_RATE": 0.2,
                "ALPHA": 8.0,
                "LAYER_SCALE": 1e-5,
                "PER_IMAGE": True,
            }
        )
    )
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    assert shapes == {
        name: TokenShape(channels=8, stride=stride)
        for name, stride in zip(NAMES, (4, 8, 16, 32), strict=True)
    }
    assert are_tokens(shapes) and not are_tokens({"res2": ShapeSpec(channels=8, stride=4)})
    stage = backbone.layers[2]
    assert (stage.downsample.rate, stage.downsample.alpha, stage.downsample.stride) == (0.2, 8.0, 8)
    assert stage.per_image and len(stage.blocks) == 6
    assert backbone.layers[3].blocks[-1].drop_path.p == pytest.approx(0.3)
    cfg.MODEL.AFF.ATTN_DROP_RATE = 0.1
    with pytest.raises(ValueError, match=r"AFF.ATTN_DROP_RATE: expected 0"):
        build_backbone(cfg)


def test_bfloat16_autocast(build_backbone):
    backbone = build_backbone()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images(48, 48))
    for tokens in features.values():
        assert tokens.positions.dtype == torch.float32
        assert tokens.features.isfinite().all()


def test_focus_is_what_downsampling_chooses_by(build_backbone):
    backbone = build_backbone(reserve=False, alpha=1e6)
    pixels = images(62, 77, batch=2)
    stages = backbone.focus(pixels)
    assert [positions.shape for positions, _ in stages] == [
        (2, count, 2) for count in (320, 80, 20, 5)
    ]
    assert stages[-1][1] is None
    for (positions, importance), (kept, _) in pairwise(stages):
        assert not importance.requires_grad
        assert importance.shape == positions.shape[:2]
        # The importance decides alone, so that no token that is gone had more than one that stayed.
        stays = (positions[:, :, None] == kept[:, None]).all(-1).any(-1)
        assert (stays.sum(1) == kept.shape[1]).all()
        for of_image, stayed in zip(importance, stays, strict=True):
            assert of_image[stayed].min() >= of_image[~stayed].max()
    grid = sorted(map(tuple, stages[0][0][0].tolist()))
    assert grid == [(x + 2.0, y + 2.0) for x in range(0, 80, 4) for y in range(0, 64, 4)]
