"""Checkpoints of Transformers: the same outputs from the same file."""

import pytest
import torch

from eomt_models import small_model

transformers = pytest.importorskip(
    "transformers", reason="transformers, a development extra, is not installed"
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "num_queries": 8,
    "num_upscale_blocks": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_register_tokens": 4,
    "num_labels": 3,
}


def build(model_class: type, config) -> torch.nn.Module:
    """A model with random weights."""
    # The eager attention of some versions applies masks after the softmax.
    model = model_class._from_config(config, attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 + (parameter.dim() == 1))
    return model.eval()


def assert_equal_outputs(theirs: torch.nn.Module, *settings, masked: bool) -> None:
    ours = small_model(*settings).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    theirs.attn_mask_probs.fill_(float(masked))
    with torch.no_grad():
        expected = theirs(pixel_values=images)
        actual = ours.transformer(images, masked_attention=masked)[-1]
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(actual.class_logits, expected.class_queries_logits, **close)
    torch.testing.assert_close(actual.mask_logits, expected.masks_queries_logits, **close)


@pytest.mark.parametrize("masked", [False, True])
def test_eomt(masked):
    config = transformers.EomtConfig(**SIZES)
    assert_equal_outputs(build(transformers.EomtForUniversalSegmentation, config), masked=masked)


@pytest.mark.parametrize("masked", [False, True])
def test_eomt_dinov3(masked):
    if not hasattr(transformers, "EomtDinov3ForUniversalSegmentation"):
        pytest.skip(f"transformers {transformers.__version__} has no EomtDinov3")
    # As the published models; the defaults of the class are others.
    config = transformers.EomtDinov3Config(**SIZES, intermediate_size=128, layer_norm_eps=1e-5)
    theirs = build(transformers.EomtDinov3ForUniversalSegmentation, config)
    name = "vit_small_patch16_dinov3_qkvb"
    assert_equal_outputs(theirs, "MODEL.EOMT.VIT.NAME", name, masked=masked)


def test_pretrained_dinov3():
    sizes = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "image_size")}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 128, "num_register_tokens": 4}
    theirs = build(transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig(**sizes))
    model = small_model("MODEL.EOMT.VIT.NAME", "vit_small_patch16_dinov3_qkvb").eval()
    model.load_state_dict(theirs.state_dict(), strict=False)
    backbone = model.transformer.backbone
    images = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    with torch.no_grad():
        expected = theirs(pixel_values=images).last_hidden_state
        tokens = backbone.tokens(images)
        actual = tokens.values
        for index in range(len(backbone.blocks)):
            actual = backbone.run_block(index, actual, tokens.rotary)
    torch.testing.assert_close(backbone.normalize(actual), expected, rtol=1e-4, atol=1e-4)
