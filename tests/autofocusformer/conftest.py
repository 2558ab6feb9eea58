"""An AutoFocusFormer small enough to run in milliseconds, built from Python."""

import pytest
import torch

from autofocusformer import (
    AutoFocusFormer,
    PointMaskedTransformerDecoder,
    PointPixelDecoder,
    Tokens,
)
from mask2former.criterion import SetCriterion
from mask2former.head import MaskFormerHead
from mask2former.meta_arch import MaskFormer
from segcore.inference import PanopticMerging
from segcore.matching import HungarianMatcher

NUM_CLASSES = 3
NUM_QUERIES = 5
DIM = 16


def small_backbone(kind=AutoFocusFormer, **options):
    torch.manual_seed(0)
    defaults = {
        "embed_dim": (8, 12, 16, 20),
        "depths": (1, 1, 2, 1),
        "num_heads": (2, 2, 4, 4),
        "cluster_size": 4,
        "neighborhood_size": (12, 12, 12, 12),
    }
    return kind(**(defaults | options)).eval()


def small_pixel_decoder(shapes, **options):
    torch.manual_seed(0)
    defaults = {
        "conv_dim": DIM,
        "mask_dim": DIM,
        "num_encoder_layers": 2,
        "num_heads": 2,
        "dropout": 0.0,
        "power": 3.0,
        "learnable_power": True,
        "feedforward_dim": 8,
    }
    return PointPixelDecoder(shapes, **(defaults | options)).eval()


def small_predictor(**options):
    torch.manual_seed(0)
    defaults = {
        "num_classes": NUM_CLASSES,
        "hidden_dim": DIM,
        "num_queries": NUM_QUERIES,
        "num_heads": 2,
        "feedforward_dim": 16,
        "num_layers": 4,
        "mask_dim": DIM,
    }
    return PointMaskedTransformerDecoder(DIM, **(defaults | options)).eval()


def small_model(*, per_image=False, **backbone):
    backbone = small_backbone(per_image=per_image, **backbone)
    head = MaskFormerHead(
        num_classes=NUM_CLASSES,
        pixel_decoder=small_pixel_decoder(backbone.output_shape(), per_image=per_image),
        transformer_predictor=small_predictor(per_image=per_image),
        transformer_in_feature="multi_scale_pixel_decoder",
    )
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=16)
    criterion = SetCriterion(
        num_classes=NUM_CLASSES,
        matcher=matcher,
        weight_dict={
            f"loss_{kind}{level}": weight
            for kind, weight in (("ce", 2.0), ("mask", 5.0), ("dice", 5.0))
            for level in ("", "_0", "_1", "_2", "_3")
        },
        no_object_weight=0.1,
        num_points=16,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return MaskFormer(
        backbone=backbone,
        sem_seg_head=head,
        criterion=criterion,
        pixel_mean=[120.0, 110.0, 100.0],
        pixel_std=[60.0, 60.0, 60.0],
        panoptic_on=True,
        thing_ids=[0, 1],
        panoptic_merging=PanopticMerging("mask2former", score_threshold=0.0, min_visible_share=0.8),
    )


def scattered(canvas, count, channels, *, batch=2, seed=0):
    """Random tokens, each in another cell, at the same share of all cells."""
    generator = torch.Generator().manual_seed(seed)
    height, width = canvas
    cells = torch.stack(
        [torch.randperm(height * width, generator=generator)[:count] for _ in range(batch)]
    )
    positions = torch.stack((cells % width, cells // width), dim=-1).float()
    features = torch.randn(batch, count, channels, generator=generator)
    return Tokens(features, positions, canvas)


@pytest.fixture
def build_backbone():
    return small_backbone


@pytest.fixture
def build_pixel_decoder():
    return small_pixel_decoder


@pytest.fixture
def build_predictor():
    return small_predictor


@pytest.fixture
def build_model_on_tokens():
    return small_model


@pytest.fixture
def scatter():
    return scattered
