"""A Panoptic SegFormer small enough to run in milliseconds, built from Python."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from panoptic_segformer.batching import SeparateSizes
from panoptic_segformer.class_order import ClassOrder
from panoptic_segformer.criterion import PanopticSegFormerCriterion
from panoptic_segformer.encoder import MultiScaleEncoder
from panoptic_segformer.location_decoder import LocationDecoder
from panoptic_segformer.location_kinds import BOXES
from panoptic_segformer.mask_decoder import MaskDecoder
from panoptic_segformer.meta_arch import PanopticSegFormer
from panoptic_segformer.neck import ChannelMapper
from panoptic_segformer.postprocess import DEFAULT_MERGING
from segcore.inference import ResultMaker

NUM_CLASSES, THING_IDS = 5, [1, 2, 4]
DIM = 64
CHANNELS = {"res3": 6, "res4": 8, "res5": 10}


class Pyramid(nn.Module):
    """Strided convolutions with biases, which make something of padding."""

    def __init__(self, size_divisibility=0):
        super().__init__()
        self.size_divisibility = size_divisibility
        self.stem = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        widths = [4, *CHANNELS.values()]
        self.stages = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(3)
        )

    def forward(self, x):
        assert all(side % max(self.size_divisibility, 1) == 0 for side in x.shape[-2:])
        x, features = self.stem(x).relu(), {}
        for name, stage in zip(CHANNELS, self.stages, strict=True):
            features[name] = x = stage(x).relu()
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(channels=channels, stride=8 * 2**i)
            for i, (name, channels) in enumerate(CHANNELS.items())
        }


def small_model(
    *,
    location_kind=BOXES,
    recompute=False,
    backbone=None,
    results=None,
    **options,
):
    torch.manual_seed(0)
    order = ClassOrder(NUM_CLASSES, THING_IDS)
    attention = {"embed_dim": DIM, "num_heads": 2, "feedforward_dim": 16}
    return PanopticSegFormer(
        backbone=backbone or Pyramid(),
        in_features=list(CHANNELS),
        neck=ChannelMapper(list(CHANNELS.values()), DIM),
        encoder=MultiScaleEncoder(num_layers=1, dropout=0.0, **attention),
        location_decoder=LocationDecoder(
            num_queries=7,
            num_classes=len(THING_IDS),
            num_layers=2,
            dropout=0.0,
            num_coordinates=location_kind.num_coordinates,
            **attention,
        ),
        thing_mask_decoder=MaskDecoder(
            num_layers=1, self_attention=False, recompute=recompute, **attention
        ),
        stuff_mask_decoder=MaskDecoder(
            num_layers=2, self_attention=True, recompute=recompute, **attention
        ),
        class_order=order,
        location_kind=location_kind,
        criterion=PanopticSegFormerCriterion(location_kind),
        result_maker=ResultMaker(
            **{"merging": DEFAULT_MERGING, "topk_per_image": 100, **(results or {})},
            thing_ids=THING_IDS,
        ),
        pixel_mean=[120.0, 110.0, 100.0],
        pixel_std=[60.0, 60.0, 60.0],
        **{"padding_policy": SeparateSizes(), **options},
    )


@torch.no_grad()
def perturb(model):
    """Move all parameters away from special initial values; masks get values around 0.5."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder):
        decoder.tail.mask_fuse.bias.fill_(0.5)
    return model


@pytest.fixture
def build_small_model():
    return small_model


@pytest.fixture
def build_perturbed_model():
    return lambda **options: perturb(small_model(**options).double()).eval()


@pytest.fixture
def build_pyramid():
    return Pyramid
