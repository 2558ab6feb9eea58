"""Tokens as maps, and networks on maps that run on them."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Instances

from autofocusformer import AutoFocusFormer, AutoFocusFormerGrid
from autofocusformer.grid import to_map
from autofocusformer.interpolation import interpolate, nearest_tokens
from autofocusformer.tokens import Tokens, grid_positions
from segcore.backbones.features import FEATURES, are_tokens
from segcore.config import get_cfg
from segcore.data import quickstart

DRAWN = "test_grid_drawn"  # a name for the metadata
BASE = Path(__file__).resolve().parents[2] / "configs/_base_"


@pytest.fixture
def build(build_backbone):
    return partial(build_backbone, AutoFocusFormerGrid)


def images(*size: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(batch, 3, *size, generator=generator)


def interpolated_by_hand(tokens: Tokens, image: int, x: float, y: float) -> torch.Tensor:
    squared = [(px - x) ** 2 + (py - y) ** 2 for px, py in tokens.positions[image].tolist()]
    nearest = sorted(range(len(squared)), key=lambda token: (squared[token], token))[:4]
    weights = torch.tensor([1 / squared[token] ** 3 for token in nearest], dtype=torch.float64)
    return (weights[:, None] * tokens.features[image, nearest]).sum(0) / weights.sum()


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_cells_are_interpolated_at_their_centers(scatter, stride):
    tokens = scatter((9, 14), 20, 5)
    tokens = tokens.with_features(tokens.features.double())
    dense = to_map(tokens, stride)
    assert dense.shape == (2, 5, math.ceil(9 * 4 / stride), math.ceil(14 * 4 / stride))
    assert dense.is_contiguous()
    for image in range(2):
        for i in range(dense.shape[2]):
            for j in range(dense.shape[3]):
                x, y = (j + 0.5) * stride / 4 - 0.5, (i + 0.5) * stride / 4 - 0.5
                expected = interpolated_by_hand(tokens, image, x, y)
                torch.testing.assert_close(dense[image, :, i, j], expected)


def test_tokens_on_the_grid_are_exact(scatter):
    tokens = scatter((6, 7), 42, 5)
    centers = grid_positions((6, 7)).expand(2, -1, -1)
    general = interpolate(tokens, centers, nearest_tokens(centers, tokens.positions))
    assert torch.equal(to_map(tokens, 4).flatten(2).transpose(1, 2), tokens.map().flatten(2).mT)
    torch.testing.assert_close(general, tokens.map().flatten(2).mT)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_tokens_than_neighbors(scatter, count):
    tokens = scatter((8, 8), count, 5)
    dense = to_map(tokens.with_features(torch.ones_like(tokens.features)), 8)
    torch.testing.assert_close(dense, torch.ones(2, 5, 4, 4))
    if count == 1:
        dense = to_map(tokens, 8)
        torch.testing.assert_close(dense, tokens.features[:, 0, :, None, None].expand_as(dense))


def test_gradient_of_the_interpolation(scatter):
    tokens = scatter((6, 9), 13, 3)
    features = tokens.features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: to_map(tokens.with_features(x), 8), features)


@pytest.mark.parametrize("size", [(64, 96), (62, 77), (1, 1), (5, 9), (4, 200), (33, 32)])
def test_maps_of_any_image_train(build, size):
    backbone = build().train()
    backbone.patch_embed.bn.eval()  # a single pixel has no variance
    features = backbone(images(*size, batch=2))
    assert list(features) == list(FEATURES)
    for name, shape in backbone.output_shape().items():
        assert type(shape) is ShapeSpec
        sides = [math.ceil(side / shape.stride) for side in size]
        assert features[name].shape == (2, shape.channels, *sides)
        assert features[name].isfinite().all()
    sum(feature.square().sum() for feature in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_the_finest_map_holds_every_token(build, build_backbone):
    tokens = build_backbone()(images(40, 52))["res2"]
    assert torch.equal(build()(images(40, 52))["res2"], tokens.map())


@torch.no_grad()
def test_photos_are_independent_of_their_batch_if_asked(build):
    backbone = build(per_image=True)
    pair = torch.cat([images(64, 80), 3 * images(64, 80).flip(-1)])
    together, alone = backbone(pair), backbone(pair[:1])
    for name in FEATURES:
        torch.testing.assert_close(together[name][:1], alone[name])


def test_wanted_features_only(build):
    backbone = build(out_features=["res5", "res3"])
    assert list(backbone.output_shape()) == list(backbone(images(32, 32))) == ["res3", "res5"]


@torch.no_grad()
def test_half_types(build):
    backbone = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images(48, 48))
    assert all(feature.isfinite().all() for feature in features.values())


def cfg_of(system: str):
    """The common part of a system's configurations, on a tiny AutoFocusFormerGrid."""
    cfg = get_cfg()
    cfg.merge_from_file(str(BASE / f"{system}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "AutoFocusFormerGrid"
    aff = cfg.MODEL.AFF
    aff.EMBED_DIM, aff.DEPTHS, aff.NUM_HEADS = [16, 24, 32, 40], [1, 1, 1, 1], [2, 2, 4, 4]
    aff.DROP_PATH_RATE = 0.0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(quickstart.CATEGORIES)
    return cfg


def small_mask2former():
    cfg = cfg_of("mask2former")
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.TRANSFORMER_ENC_LAYERS = 1
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = 32
    mask_former.DIM_FEEDFORWARD = 64
    mask_former.NUM_OBJECT_QUERIES = 10
    mask_former.DEC_LAYERS = 3
    mask_former.TRAIN_NUM_POINTS = 256
    return cfg


def small_panoptic_segformer():
    cfg = cfg_of("panoptic_segformer")
    cfg.DATASETS.TRAIN = (DRAWN,)
    panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    panoptic_segformer.HIDDEN_DIM, panoptic_segformer.DIM_FEEDFORWARD = 32, 64
    panoptic_segformer.NHEADS = 8
    panoptic_segformer.DROPOUT = 0.0
    panoptic_segformer.NUM_THING_QUERIES = 20
    panoptic_segformer.ENC_LAYERS = panoptic_segformer.THING_MASK_LAYERS = (
        panoptic_segformer.STUFF_MASK_LAYERS
    ) = 1
    panoptic_segformer.LOCATION_LAYERS = 2
    return cfg


@pytest.fixture
def drawn_metadata():
    things = {id: id for id, category in enumerate(quickstart.CATEGORIES) if category["isthing"]}
    MetadataCatalog.get(DRAWN).thing_dataset_id_to_contiguous_id = things
    yield
    MetadataCatalog.remove(DRAWN)


def test_from_config_with_the_parameters_of_the_tokens():
    cfg = small_mask2former()
    grid = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = "AutoFocusFormer"
    tokens = build_backbone(cfg)
    assert type(grid) is AutoFocusFormerGrid and type(tokens) is AutoFocusFormer
    assert not are_tokens(grid.output_shape()) and are_tokens(tokens.output_shape())
    grid.load_state_dict(tokens.state_dict())


def drawn_photo(seed: int) -> dict:
    """A picture of the quickstart data as the model's input."""
    pixels, ids, segments = quickstart.draw(np.random.default_rng(seed), (64, 64))
    instances = Instances((64, 64))
    instances.gt_classes = torch.tensor([segment["category_id"] - 1 for segment in segments])
    masks = np.stack([ids == segment["id"] for segment in segments])
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "instances": instances}


@pytest.mark.parametrize("cfg_of_system", [small_mask2former, small_panoptic_segformer])
@pytest.mark.usefixtures("drawn_metadata")
def test_networks_on_maps_learn_on_it(cfg_of_system):
    torch.manual_seed(0)
    model = build_model(cfg_of_system()).train()
    photos = [drawn_photo(seed) for seed in range(2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(60):
        loss = sum(model(photos).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-5:]) < 0.7 * np.mean(history[:5])
    # What decides which tokens stay learns too, through the merging.
    assert model.backbone.layers[0].prob_net.weight.grad.abs().sum() > 0
