"""The switches of the paper's ablations."""

import pytest
import torch
import torch.nn.functional as F

from mask2former.criterion import build_criterion
from mask2former.head import MaskFormerHead
from mask2former.transformer_decoder import MaskPooling
from segcore.config import get_cfg
from segcore.config.validation import validate_config
from segcore.errors import ConfigError

from .test_head import SHAPES

SWITCHES = [
    ("ATTENTION", "plain"),
    ("ATTENTION", "pooled"),
    ("FEATURE_LEVELS", [2]),
    ("FEATURE_LEVELS", [0, 2]),
    ("QUERY_INIT", "zero"),
    ("QUERY_INIT", "pixel_decoder"),
    ("LOSS_SAMPLING", "masks"),
]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    cfg.MODEL.META_ARCHITECTURE, head.NAME = "MaskFormer", "MaskFormerHead"
    head.IN_FEATURES = list(SHAPES)
    head.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    head.CONVS_DIM = head.MASK_DIM = mask_former.HIDDEN_DIM = 32
    head.NUM_CLASSES, head.NORM = 3, "GN"
    mask_former.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    mask_former.NUM_OBJECT_QUERIES, mask_former.DIM_FEEDFORWARD = 5, 16
    mask_former.DROPOUT = 0.0
    mask_former.DEC_LAYERS, mask_former.TRAIN_NUM_POINTS = 4, 16
    return cfg


def features(size: int = 64) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(2, shape.channels, size // shape.stride, size // shape.stride)
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize(("key", "value"), SWITCHES)
def test_forward_and_training_step(cfg, key, value):
    cfg.MODEL.MASK_FORMER[key] = value
    torch.manual_seed(0)
    head, criterion = MaskFormerHead(cfg, SHAPES), build_criterion(cfg)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    targets = [{"labels": torch.tensor([0, 2]), "masks": masks}] * 2
    outputs = head(features())
    losses = criterion(outputs, targets)
    assert len(losses) == 3 * 4 and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = {n for n, p in head.predictor.named_parameters() if p.grad is None}
    assert without == set()
    with torch.no_grad():
        evaluated = head.eval()(features())["pred_masks"]
    torch.testing.assert_close(evaluated, outputs["pred_masks"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("key", "value"), SWITCHES[:-1])
def test_switches_change_the_prediction(cfg, key, value):
    def predictions(cfg):
        torch.manual_seed(0)
        head = MaskFormerHead(cfg, SHAPES).eval()
        for name, parameter in head.named_parameters():
            torch.manual_seed(len(name) + parameter.numel())
            torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            return head(features())["pred_masks"]

    default = predictions(cfg)
    cfg.MODEL.MASK_FORMER[key] = value
    assert not torch.allclose(predictions(cfg), default)


def test_pooling_is_attention_with_equal_weights():
    torch.manual_seed(0)
    pooling = MaskPooling(8).double()
    value, visible = torch.randn(2, 6, 8).double(), torch.rand(2, 1, 4, 6) < 0.5
    visible[..., 0] = True
    projected = pooling.value_proj(value)
    equal = torch.zeros(2, 4, 6).double().masked_fill(~visible[:, 0], -torch.inf).softmax(-1)
    expected = pooling.out_proj(equal @ projected)
    torch.testing.assert_close(pooling(value, value, value, visible), expected)


def test_queries_of_the_pixel_decoder_with_fewer_tokens_than_queries(cfg):
    cfg.MODEL.MASK_FORMER.QUERY_INIT = "pixel_decoder"
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 50  # a photo of 32 x 32 has 1 + 4 + 16 tokens
    assert MaskFormerHead(cfg, SHAPES).eval()(features(32))["pred_masks"].shape[:2] == (2, 50)


def test_whole_masks_are_compared_at_their_pixels(cfg):
    """The targets at a prediction of a quarter of the size are means of the four inner pixels."""
    cfg.MODEL.MASK_FORMER.LOSS_SAMPLING = "masks"
    criterion, target = build_criterion(cfg), torch.rand(1, 24, 32) < 0.5
    outputs = {"pred_logits": torch.zeros(1, 1, 4), "pred_masks": torch.randn(1, 1, 6, 8)}
    losses = criterion.unweighted(outputs, [{"labels": torch.tensor([1]), "masks": target}])
    expected = target.double().unflatten(2, (8, 4))[..., 1:3].unflatten(1, (6, 4))[:, :, 1:3]
    expected = expected.mean((2, 4))
    loss = F.binary_cross_entropy_with_logits(outputs["pred_masks"][0].double(), expected)
    torch.testing.assert_close(losses["loss_mask"].double(), loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ATTENTION", "mask"),
        ("FEATURE_LEVELS", []),
        ("FEATURE_LEVELS", [3]),
        ("QUERY_INIT", "zeros"),
        ("LOSS_SAMPLING", "point"),
        ("CRITERION", "dice"),
    ],
)
def test_wrong_values(cfg, key, value):
    cfg.MODEL.MASK_FORMER[key] = value
    with pytest.raises(ConfigError, match=rf"\AMODEL.MASK_FORMER.{key}: expected [^\n]*\Z"):
        validate_config(cfg)


def test_switches_are_of_the_masked_decoder(cfg, build_predictor):
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "StandardTransformerDecoder"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    cfg.MODEL.MASK_FORMER.ATTENTION = "plain"
    with pytest.raises(ConfigError, match="ATTENTION: expected 'masked', as StandardTransformer"):
        validate_config(cfg)
    with pytest.raises(ValueError, match=r"attention: expected one of masked, .*got 'soft'"):
        build_predictor(attention="soft")
