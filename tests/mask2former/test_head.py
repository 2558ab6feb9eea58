import pytest
import torch
from detectron2.layers import ShapeSpec

from mask2former.head import MaskFormerHead
from segcore.config import get_cfg

SHAPES = {f"res{i + 2}": ShapeSpec(channels=8 * 2**i, stride=4 * 2**i) for i in range(4)}


@pytest.fixture
def cfg():
    cfg = get_cfg()
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.IN_FEATURES = list(SHAPES)
    head.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = 32
    head.NUM_CLASSES = 3
    mask_former.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    mask_former.NUM_OBJECT_QUERIES = 5
    return cfg


def test_from_config(cfg):
    head = MaskFormerHead(cfg, SHAPES).eval()
    features = {
        name: torch.randn(1, shape.channels, 64 // shape.stride, 64 // shape.stride)
        for name, shape in SHAPES.items()
    }
    outputs = head(features)
    assert outputs["pred_logits"].shape == (1, 5, 4)
    assert outputs["pred_masks"].shape == (1, 5, 16, 16)


def test_decoders_that_do_not_exist(cfg):
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "FPNPixelDecoder"
    with pytest.raises(
        ValueError,
        match=r"PIXEL_DECODER_NAME: expected one of .*'MSDeformAttnPixelDecoder'.*FPNPixelDecoder",
    ):
        MaskFormerHead(cfg, SHAPES)
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "DetrDecoder"
    with pytest.raises(
        ValueError,
        match=r"TRANSFORMER_DECODER_NAME: expected one of \['MultiScaleMasked.*got 'DetrDecoder'",
    ):
        MaskFormerHead(cfg, SHAPES)


def test_features_that_do_not_exist(cfg):
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res9"
    with pytest.raises(ValueError, match=r"TRANSFORMER_IN_FEATURE: expected .*got 'res9'"):
        MaskFormerHead(cfg, SHAPES)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2"]
    with pytest.raises(ValueError, match=r"IN_FEATURES: expected .*got \['p2'\]"):
        MaskFormerHead(cfg, SHAPES)


def test_queries_take_the_last_layer_of_the_embedding(cfg):
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 24
    torch.manual_seed(0)
    head = MaskFormerHead(cfg, SHAPES).eval()
    last = head.pixel_decoder.mask_features
    torch.nn.init.normal_(last.bias)
    features = {
        name: torch.randn(2, shape.channels, 96 // shape.stride, 64 // shape.stride)
        for name, shape in SHAPES.items()
    }
    assert head.mask_projection() is None  # with gradients
    with torch.inference_mode():
        assert head.mask_projection() is last
        folded = head(features)
        seen = []
        hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
        plain = head(features)
        hook.remove()
        (embedding,) = seen
        assert torch.equal(embedding, head.encode(features)[1])
        assert head.train().mask_projection() is None
    for name in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(folded[name], plain[name], rtol=1e-4, atol=1e-4)


class Decoders(torch.nn.Module):
    """A pixel decoder and a predictor that hand their input through."""

    def forward_features(self, features):
        return "embedding", "encoded", ["list"]

    def forward(self, maps, mask_features):
        return maps, mask_features


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("multi_scale_pixel_decoder", ["list"]),
        ("transformer_encoder", "encoded"),
        ("pixel_embedding", "embedding"),
        ("res5", "feature"),
    ],
)
def test_what_the_predictor_gets(name, maps):
    head = MaskFormerHead(
        num_classes=3,
        pixel_decoder=Decoders(),
        transformer_predictor=Decoders(),
        transformer_in_feature=name,
    )
    assert head({"res5": "feature"}) == (maps, "embedding")
