"""A Mask2Former small enough to run in milliseconds, built from Python."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from mask2former.criterion import SetCriterion
from mask2former.head import MaskFormerHead
from mask2former.meta_arch import MaskFormer
from mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder
from segcore.matching import HungarianMatcher

NUM_CLASSES = 3
NUM_QUERIES = 5
DIM = 32
CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}


class Pyramid(nn.Module):
    """A backbone of four strided convolutions."""

    size_divisibility = 0

    def __init__(self):
        super().__init__()
        widths = [3, *CHANNELS.values()]
        self.stages = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2 if i else 4, padding=1)
            for i in range(4)
        )

    def forward(self, x):
        features = {}
        for name, stage in zip(CHANNELS, self.stages, strict=True):
            features[name] = x = stage(x)
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**i)
            for i, (name, channels) in enumerate(CHANNELS.items())
        }


def small_pixel_decoder(**options):
    defaults = {
        "conv_dim": DIM,
        "mask_dim": DIM,
        "norm": "GN",
        "transformer_in_features": ["res3", "res4", "res5"],
        "common_stride": 4,
        "num_encoder_layers": 1,
        "num_heads": 2,
        "dropout": 0.0,
        "feedforward_dim": 16,
    }
    return MSDeformAttnPixelDecoder(Pyramid().output_shape(), **(defaults | options))


def small_predictor(**options):
    defaults = {
        "num_classes": NUM_CLASSES,
        "hidden_dim": DIM,
        "num_queries": NUM_QUERIES,
        "num_heads": 2,
        "feedforward_dim": 16,
        "num_layers": 4,
        "mask_dim": DIM,
    }
    return MultiScaleMaskedTransformerDecoder(DIM, **(defaults | options))


def small_model(**options):
    torch.manual_seed(0)
    head = MaskFormerHead(
        num_classes=NUM_CLASSES,
        pixel_decoder=small_pixel_decoder(),
        transformer_predictor=small_predictor(),
        transformer_in_feature="multi_scale_pixel_decoder",
    )
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=16)
    criterion = SetCriterion(
        num_classes=NUM_CLASSES,
        matcher=matcher,
        weight_dict={"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0},
        no_object_weight=0.1,
        num_points=16,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return MaskFormer(
        backbone=Pyramid(),
        sem_seg_head=head,
        criterion=criterion,
        pixel_mean=[120.0, 110.0, 100.0],
        pixel_std=[60.0, 60.0, 60.0],
        **options,
    )


@pytest.fixture
def build_pixel_decoder():
    return small_pixel_decoder


@pytest.fixture
def build_predictor():
    return small_predictor


@pytest.fixture
def build_small_model():
    return small_model
