import pytest
import torch
import torch.nn.functional as F

from mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder

DIM = 32


def inputs(batch=2):
    torch.manual_seed(0)
    sizes = [(2, 3), (4, 6), (8, 12)]
    maps = [torch.randn(batch, DIM, *size, dtype=torch.float64) for size in sizes]
    return maps, torch.randn(batch, DIM, 16, 24, dtype=torch.float64)


def plain(decoder, maps, mask_features):
    """The decoder of the paper, layer by layer: masks resized at every layer, rows repeated."""
    memory, keys = [], []
    for i, level in enumerate(maps):
        value = level.flatten(2).transpose(1, 2) + decoder.level_embed.weight[i]
        position = decoder.position_encoding(level.shape[-2:]).flatten(2).transpose(1, 2)
        memory.append(value)
        keys.append(value + position)
    queries = decoder.query_feat.weight.expand(len(mask_features), -1, -1)
    position = decoder.query_embed.weight
    predictions = []

    def predict(level):
        normed = decoder.decoder_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(normed), mask_features)
        predictions.append({"pred_logits": decoder.class_embed(normed), "pred_masks": masks})
        resized = F.interpolate(
            masks, size=maps[level].shape[-2:], mode="bilinear", align_corners=False
        )
        blocked = (resized.sigmoid() < 0.5).flatten(2).detach()
        blocked[blocked.all(dim=-1)] = False
        return blocked

    for i, (cross, self_, ffn) in enumerate(
        zip(
            decoder.transformer_cross_attention_layers,
            decoder.transformer_self_attention_layers,
            decoder.transformer_ffn_layers,
            strict=True,
        )
    ):
        blocked = predict(i % 3)
        level = i % 3
        attended = cross.multihead_attn(
            queries + position, keys[level], memory[level], ~blocked[:, None]
        )
        queries = cross.norm(queries + attended)
        attended = self_.self_attn(queries + position, queries + position, queries)
        queries = self_.norm(queries + attended)
        queries = ffn.norm(queries + ffn.linear2(ffn.linear1(queries).relu()))
    predict(0)
    return predictions


def test_equals_plain_loop_with_gradients(build_predictor):
    torch.manual_seed(1)
    decoder = build_predictor(num_layers=5).double()
    maps, mask_features = inputs()
    outputs = decoder(maps, mask_features)
    actual = [*outputs["aux_outputs"], outputs]
    expected = plain(decoder, maps, mask_features)
    assert len(actual) == len(expected) == 6
    for ours, theirs in zip(actual, expected, strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value)

    def gradients(predictions):
        total = sum(p["pred_masks"].square().sum() + p["pred_logits"].sum() for p in predictions)
        return torch.autograd.grad(total, list(decoder.parameters()))

    torch.testing.assert_close(gradients(actual), gradients(expected))


def test_evaluation_has_the_final_prediction_only(build_predictor):
    decoder = build_predictor().double()
    trained = decoder(*inputs())
    evaluated = decoder.eval()(*inputs())
    assert len(trained["aux_outputs"]) == 4 and evaluated["aux_outputs"] == []
    assert torch.equal(trained["pred_masks"], evaluated["pred_masks"])
    # Masks of the others take no memory before they are asked for.
    assert all("pred_masks" not in prediction for prediction in trained["aux_outputs"])
    with pytest.raises(KeyError, match="pred_boxes"):
        trained["aux_outputs"][0]["pred_boxes"]


def test_empty_masks_see_everything(build_predictor):
    decoder = build_predictor(num_layers=1).double().eval()
    maps, mask_features = inputs()
    torch.nn.init.zeros_(decoder.mask_embed.layers[2].weight)
    torch.nn.init.constant_(decoder.mask_embed.layers[2].bias, -1.0)
    outputs = [decoder(maps, sign * mask_features.abs()) for sign in (1, -1)]
    # All blocked (then cleared) and all visible are the same attention.
    torch.testing.assert_close(outputs[0]["pred_logits"], outputs[1]["pred_logits"])
    assert outputs[0]["pred_logits"].isfinite().all()


def test_pre_norm_trains(build_predictor):
    decoder = build_predictor(pre_norm=True).double()
    outputs = decoder(*inputs())
    (outputs["pred_masks"].sum() + outputs["pred_logits"].sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_input_projection_only_where_needed(build_predictor):
    names = [name for name, _ in build_predictor().named_parameters() if "input_proj" in name]
    assert names == []
    names = [n for n, _ in build_predictor(enforce_input_projection=True).named_parameters()]
    assert "input_proj.2.weight" in names


def test_bad_input(build_predictor):
    maps, mask_features = inputs()
    with pytest.raises(ValueError, match=r"expected 3 feature maps.*multi_scale.*got one Tensor"):
        build_predictor().double()(maps[0], mask_features)
    with pytest.raises(ValueError, match=r"expected 3 feature maps.*got 2"):
        build_predictor().double()(maps[:2], mask_features)


def test_number_of_layers_from_config():
    from segcore.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 4
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = DIM
    decoder = MultiScaleMaskedTransformerDecoder(cfg, DIM, mask_classification=True)
    assert len(decoder.transformer_ffn_layers) == 3
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 1
    with pytest.raises(ValueError, match="DEC_LAYERS counts the predictions"):
        MultiScaleMaskedTransformerDecoder(cfg, DIM)
    with pytest.raises(ValueError, match="always classifies"):
        MultiScaleMaskedTransformerDecoder(cfg, DIM, mask_classification=False)
