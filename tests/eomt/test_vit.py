"""Plain ViTs of timm as tokens: the whole walk for each type, and a clear refusal of others."""

import pytest
import torch
from torch import nn

from eomt.attention_mask import QueryRowsMask
from eomt.network import EncoderOnlyMaskTransformer
from eomt.vit import NAMED, TimmViT
from segcore.backbones.timm_models import create_timm_model
from segcore.errors import ConfigError

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
# Name -> arguments that make it small.
VITS = {
    "vit_small_patch14_reg4_dinov2": SMALL,  # DINOv2
    "vit_small_patch16_dinov3_qkvb": SMALL,  # DINOv3, rotary
    "vit_tiny_patch16_224": SMALL,  # AugReg
    "deit3_small_patch16_224": SMALL,  # DeiT III
    "deit_tiny_distilled_patch16_224": SMALL,  # two prefix tokens
    "vit_base_patch16_clip_224": SMALL,  # CLIP, a norm before the blocks
    "vit_base_patch16_siglip_224": SMALL,  # SigLIP, no prefix token
    "eva02_tiny_patch14_224": SMALL,  # EVA-02, both positions, norm of the mean
    "vit_pe_core_tiny_patch16_384": SMALL,  # Perception Encoder
    "vit_small_patch16_rope_224": SMALL,  # rotary, axial
    "vit_small_patch16_rope_mixed_224": SMALL,  # rotary, another table a block
}


def build(name: str) -> EncoderOnlyMaskTransformer:
    torch.manual_seed(0)
    backbone = TimmViT(name, (64, 64), patch_size=16, arguments=VITS[name])
    return EncoderOnlyMaskTransformer(
        backbone=backbone, num_classes=3, num_queries=5, num_blocks=1
    ).eval()


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3_qkvb"])
def test_blocks_with_replaced_layers_equal_those_of_timm(name):
    backbone = build(name).backbone
    arguments = {"img_size": (64, 64), "patch_size": 16, "dynamic_img_size": True, **VITS[name]}
    vit = create_timm_model(name, arguments, **NAMED).eval()
    vit.load_state_dict(backbone.vit.state_dict())
    assert all(type(layer) is not nn.Linear for layer in backbone.blocks.modules())
    assert any(type(layer) is nn.Linear for layer in vit.blocks.modules())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone.vit.forward_features(images), vit.forward_features(images))


@pytest.mark.parametrize("name", VITS)
def test_image_tokens_are_as_in_the_vit(name):
    """Where no token may look at the queries, the others are what timm makes of the image."""
    network = build(name)
    backbone, images = network.backbone, torch.randn(2, 3, 64, 64)
    outputs = []
    backbone.blocks[-1].register_forward_hook(lambda _, args, output: outputs.append(output))

    def hide_queries(module, args, kwargs):
        count = args[0].shape[1]
        visible = torch.ones(count, count, dtype=torch.bool)
        visible[network.num_queries :, : network.num_queries] = False
        return args, kwargs | {"attn_mask": visible}

    with torch.no_grad():
        tokens = backbone.tokens(images)
        expected = tokens.values
        for index in range(len(backbone.blocks)):
            expected = backbone.run_block(index, expected, tokens.rotary)
        official = backbone.vit.forward_features(images)
        torch.testing.assert_close(backbone.normalize(expected), official, rtol=1e-4, atol=1e-4)
        outputs.clear()
        backbone.blocks[-1].register_forward_pre_hook(hide_queries, with_kwargs=True)
        network(images)
    actual = outputs[0][:, network.num_queries :]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VITS)
def test_training_at_another_size(name):
    network = build(name).train()
    predictions = network(torch.randn(1, 3, 48, 80), masked_attention=True)
    assert [tuple(p.mask_logits.shape) for p in predictions] == [(1, 5, 12, 20)] * 2
    sum(p.mask_logits.sum() + p.class_logits.sum() for p in predictions).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "beit_base_patch16_224", "mixer_s16_224", "resnet18"],
)
def test_other_models_are_refused(name):
    with pytest.raises(ConfigError, match=rf"MODEL.EOMT.VIT.NAME: expected a plain ViT.*'{name}'"):
        TimmViT(name, (64, 64))


def test_unknown_model():
    with pytest.raises(ConfigError, match="expected a model of timm, got 'vit_tiny_patch17'"):
        TimmViT("vit_tiny_patch17", (64, 64))


def test_query_rows_mask_is_the_full_mask():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 9, 8, dtype=torch.float64)
    visible = torch.rand(2, 4, 3) > 0.5
    mask = QueryRowsMask.of_patches(visible, 9)
    assert mask.full.shape == (2, 1, 9, 9)
    assert torch.equal(mask.full[:, 0, :4, 6:], visible)
    assert mask.full[:, :, 4:].all() and mask.full[..., :6].all()
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, attn_mask=mask.full)
    torch.testing.assert_close(attend(query, key, value, attn_mask=mask), expected)
    with pytest.raises(TypeError):
        torch.add(query, mask)
