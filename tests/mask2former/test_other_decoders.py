"""MaskFormer's decoders and the heads of per-pixel classification; their values are in parity."""

import pytest
import torch
from detectron2.data import Metadata
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from mask2former import (
    BasePixelDecoder,
    MaskFormerHead,
    PerPixelBaselineHead,
    PerPixelBaselinePlusHead,
    StandardTransformerDecoder,
    TransformerEncoderPixelDecoder,
)
from segcore.backbones.features import TokenShape
from segcore.checkpoint import SafeCheckpointer
from segcore.config import get_cfg
from segcore.config.validation import validate_config
from segcore.errors import ConfigError
from segcore.predictor import Predictor

SHAPES = {f"res{i + 2}": ShapeSpec(channels=4 * i + 4, stride=4 * 2**i) for i in range(4)}
NUM_CLASSES = 5


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.NAME, head.IN_FEATURES, head.NORM = "MaskFormerHead", list(SHAPES), "GN"
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = 32
    head.NUM_CLASSES = mask_former.NUM_OBJECT_QUERIES = NUM_CLASSES
    head.TRANSFORMER_ENC_LAYERS = 1
    mask_former.NHEADS, mask_former.DIM_FEEDFORWARD, mask_former.DEC_LAYERS = 4, 16, 2
    mask_former.TRANSFORMER_DECODER_NAME = "StandardTransformerDecoder"
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = list(SHAPES)
    return cfg


def features(height=33, width=45, batch=2):
    torch.manual_seed(0)
    return {
        name: torch.randn(batch, s.channels, -(-height // s.stride), -(-width // s.stride))
        for name, s in SHAPES.items()
    }


def as_per_pixel(cfg, name):
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NAME = name
    return cfg


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("decoder", [BasePixelDecoder, TransformerEncoderPixelDecoder])
def test_any_number_of_features(cfg, decoder, count):
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(SHAPES)[:count]
    x = features()
    mask_features, encoded, maps = decoder(cfg, SHAPES).eval().forward_features(x)
    names = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES
    assert mask_features.shape == (2, 32, *x["res2"].shape[2:])
    assert [m.shape[2:] for m in maps] == [x[name].shape[2:] for name in names[::-1][:3]]
    if decoder is BasePixelDecoder:
        assert encoded is None
    else:
        assert encoded.shape == (2, 32, *x[names[-1]].shape[2:])


def test_pixel_decoders_refuse_tokens(cfg):
    tokens = {name: TokenShape(channels=s.channels, stride=s.stride) for name, s in SHAPES.items()}
    for decoder in (BasePixelDecoder, TransformerEncoderPixelDecoder):
        with pytest.raises(ValueError, match="input_shape: expected maps, got tokens"):
            decoder(cfg, tokens)


def test_dropout_and_deep_supervision_are_of_training(cfg):
    decoder = StandardTransformerDecoder(cfg, 16).train()
    x, mask_features = features()["res5"], torch.randn(2, 32, 9, 12)
    first, second = decoder(x, mask_features), decoder(x, mask_features)
    assert len(first["aux_outputs"]) == 1
    assert not torch.equal(first["pred_masks"], second["pred_masks"])
    decoder.eval()
    first, second = decoder(x, mask_features), decoder(x, mask_features)
    assert first["aux_outputs"] == [] and torch.equal(first["pred_masks"], second["pred_masks"])


@pytest.mark.parametrize(
    ("in_feature", "found"),
    [("multi_scale_pixel_decoder", "list"), ("transformer_encoder", "none")],
)
def test_decoder_takes_one_map(cfg, in_feature, found):
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = in_feature
    head = MaskFormerHead(cfg, SHAPES)
    with pytest.raises(ValueError, match=f"x: expected one map, .*TRANSFORMER_IN_FEATURE.*{found}"):
        head(features())
    with pytest.raises(ConfigError, match=r"TRANSFORMER_IN_FEATURE: expected (one|another) map"):
        validate_config(cfg)


def test_layers_are_counted_by_the_decoder(cfg):
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 1
    validate_config(cfg)
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    with pytest.raises(ConfigError, match=r"DEC_LAYERS: expected at least 2.*predictions.*got 1"):
        validate_config(cfg)


@pytest.mark.parametrize("head", [PerPixelBaselineHead, PerPixelBaselinePlusHead])
def test_batches_that_are_no_multiples_of_the_stride(cfg, head):
    head = head(cfg, SHAPES).double()
    x = {name: feature.double() for name, feature in features().items()}
    targets = torch.randint(0, NUM_CLASSES, (2, 33, 45))
    targets[:, :9] = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    _, losses = head.eval().train()(x, targets)
    assert all(loss.isfinite() for loss in losses.values())
    with pytest.raises(ValueError, match=r"targets: expected .* at most 4 times .*\(36, 48\)"):
        head(x, torch.zeros(2, 64, 64, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"targets: expected the class of each pixel.*got none"):
        head(x)


def test_one_query_a_class(cfg):
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = NUM_CLASSES + 1
    with pytest.raises(ConfigError, match="NUM_OBJECT_QUERIES: expected one query a class, 5"):
        PerPixelBaselinePlusHead(cfg, SHAPES)


def test_per_pixel_model_from_training_to_checkpoint(cfg, tmp_path):
    """Detectron2's meta-architecture trains a head, predicts, and loads files of version 1."""
    torch.manual_seed(0)
    model = build_model(as_per_pixel(cfg, "PerPixelBaselinePlusHead"))
    inputs = [{"image": torch.randint(0, 256, (3, 40, 50)), "sem_seg": torch.ones(40, 50).long()}]
    losses = model.train()(inputs)
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_0"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.sem_seg_head.parameters())
    scores = model.eval()([{**inputs[0], "height": 20, "width": 30}])[0]["sem_seg"]
    assert scores.shape == (NUM_CLASSES, 20, 30)

    today = model.state_dict()
    version_1 = {name.replace(".pixel_decoder.", "."): x for name, x in today.items()}
    torch.save({"model": version_1}, tmp_path / "version_1.pth")
    other = build_model(cfg)
    SafeCheckpointer(other, complete=True).load(str(tmp_path / "version_1.pth"))
    assert all(torch.equal(x, today[name]) for name, x in other.state_dict().items())
    other = build_model(cfg)
    other.load_state_dict(version_1)
    assert all(torch.equal(x, today[name]) for name, x in other.state_dict().items())

    metadata = Metadata(name="five", stuff_classes=list("abcde"), ignore_label=255)
    SafeCheckpointer(other, str(tmp_path), metadata=metadata).save("today")
    predictor = Predictor(cfg, tmp_path / "today.pth", device="cpu")
    photo = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy()
    classes = predictor.predict_compact(photo)["semantic_map"]
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), predictor(photo)["sem_seg"].argmax(0))
