"""The whole model, from photos to results and losses, and which decoders a config means."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Instances

from autofocusformer import PointMaskedTransformerDecoder, PointPixelDecoder
from mask2former.head import MaskFormerHead
from segcore.backbones.features import TokenShape
from segcore.config import get_cfg


def shapes(kind):
    return {f"res{i + 2}": kind(channels=8, stride=4 * 2**i) for i in range(4)}


@pytest.fixture
def cfg():
    cfg = get_cfg()
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = 32
    mask_former.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    return cfg


@pytest.mark.parametrize(
    "pixel_decoder", ["MSDeformAttnPixelDecoder", "BasePixelDecoder", "PointPixelDecoder"]
)
@pytest.mark.parametrize(
    "decoder", ["MultiScaleMaskedTransformerDecoder", "PointMaskedTransformerDecoder"]
)
def test_official_names_with_tokens_mean_the_point_decoders(cfg, pixel_decoder, decoder):
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = pixel_decoder
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = decoder
    cfg.MODEL.AFF.SHEPARD_POWER = 4.0
    cfg.MODEL.AFF.SHEPARD_POWER_LEARNABLE = False
    cfg.MODEL.AFF.PER_IMAGE = True
    head = MaskFormerHead(cfg, shapes(TokenShape))
    assert isinstance(head.pixel_decoder, PointPixelDecoder)
    assert isinstance(head.predictor, PointMaskedTransformerDecoder)
    encodings = [head.pixel_decoder.transformer.position_encoding, head.predictor.position_encoding]
    assert all(encoding.per_image for encoding in encodings)
    encoder_layers = head.pixel_decoder.transformer.encoder.layers
    assert all(layer.self_attn.shepard_power == 2.0 for layer in encoder_layers)


def test_decoders_on_tokens_refuse_maps(cfg):
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "PointPixelDecoder"
    with pytest.raises(
        ValueError,
        match=r"PIXEL_DECODER_NAME: expected one of .*'MSDeformAttnPixelDecoder'.*"
        r"'PointPixelDecoder', which does not take the maps that the backbone returns",
    ):
        MaskFormerHead(cfg, shapes(ShapeSpec))
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "PointMaskedTransformerDecoder"
    with pytest.raises(ValueError, match=r"TRANSFORMER_DECODER_NAME: .*does not take the maps"):
        MaskFormerHead(cfg, shapes(ShapeSpec))


def test_other_decoders_refuse_tokens(cfg):
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "UnknownPixelDecoder"
    with pytest.raises(
        ValueError,
        match=r"PIXEL_DECODER_NAME: expected one of \['PointPixelDecoder'\], got 'Unknown\w+'$",
    ):
        MaskFormerHead(cfg, shapes(TokenShape))


def photo(height, width, seed, labels=None):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    inputs = {"image": pixels, "file_name": f"{seed}.jpg"}
    if labels is not None:
        inputs["instances"] = instances = Instances((height, width))
        instances.gt_classes = torch.tensor(labels)
        masks = torch.rand(len(labels), height, width, generator=generator) > 0.5
        instances.gt_masks = BitMasks(masks)
    return inputs


def test_training_step_reaches_every_parameter(build_model_on_tokens):
    model = build_model_on_tokens(layer_scale=0.1).train()
    losses = model([photo(50, 70, 1, [0, 2]), photo(64, 33, 2, [1])])
    assert len(losses) == 3 * 5
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    selection = model.backbone.layers[0].prob_net.weight
    assert selection.grad.abs().sum() > 0


@torch.no_grad()
def test_results_at_the_size_of_each_photo(build_model_on_tokens):
    model = build_model_on_tokens().eval()
    sizes = [(50, 70), (3, 200)]
    results = model([photo(*size, seed) for seed, size in enumerate(sizes)])
    for result, size in zip(results, sizes, strict=True):
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == size and result["sem_seg"].shape == (3, *size)
        assert set(panoptic.unique().tolist()) - {0} == {segment["id"] for segment in segments}


@torch.inference_mode()
def test_queries_take_the_last_layer_of_the_embedding(build_model_on_tokens):
    model = build_model_on_tokens().eval()
    last = model.sem_seg_head.pixel_decoder.mask_features
    assert model.sem_seg_head.mask_projection() is last
    images = torch.randn(2, 3, 64, 96)
    folded = model.network(images)
    last.register_forward_hook(lambda *hooked: None)
    torch.testing.assert_close(folded, model.network(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_photos_are_independent_of_their_batch_if_asked(build_model_on_tokens):
    photos = [photo(64, 96, 1), photo(64, 96, 2)]
    model = build_model_on_tokens(per_image=True).eval()
    together, alone = model(photos), model(photos[:1])
    torch.testing.assert_close(together[0]["sem_seg"], alone[0]["sem_seg"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pixel_decoder", [False, True])
def test_training_under_autocast(build_model_on_tokens, pixel_decoder):
    model = build_model_on_tokens().train()
    model.sem_seg_head.pixel_decoder.autocast = pixel_decoder
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([photo(64, 64, 1, [0, 2])])
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
