import pytest
import torch

from autofocusformer.tokens import Tokens
from segcore.ops import take

DIM, QUERIES, CLASSES = 16, 5, 3


@pytest.fixture
def levels(scatter):
    return [scatter((6, 8), count, DIM, seed=count) for count in (3, 8, 20)]


@pytest.fixture
def mask_features(scatter):
    return scatter((6, 8), 48, DIM)


def shuffled(tokens):
    order = torch.stack([torch.randperm(tokens.positions.shape[1]) for _ in tokens.positions])
    return Tokens(take(tokens.features, order), take(tokens.positions, order), tokens.canvas)


@torch.no_grad()
def test_dense_masks(build_predictor, levels, mask_features):
    outputs = build_predictor()(levels, mask_features)
    assert outputs["pred_logits"].shape == (2, QUERIES, CLASSES + 1)
    assert outputs["pred_masks"].shape == (2, QUERIES, 6, 8)
    assert outputs["aux_outputs"] == []


def test_auxiliary_predictions_and_gradients(build_predictor, levels, mask_features):
    predictor = build_predictor().train()
    outputs = predictor(levels, mask_features)
    assert len(outputs["aux_outputs"]) == 4
    predictions = [outputs, *outputs["aux_outputs"]]
    sum(p["pred_logits"].square().sum() + p["pred_masks"].sum() for p in predictions).backward()
    assert all(parameter.grad is not None for parameter in predictor.parameters())


@torch.no_grad()
def test_order_of_the_tokens_does_not_matter(build_predictor, levels, mask_features):
    torch.manual_seed(0)
    predictor = build_predictor()
    expected = predictor(levels, mask_features)
    actual = predictor([shuffled(level) for level in levels], shuffled(mask_features))
    for name in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(actual[name], expected[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_queries_see_the_tokens_inside_their_masks(build_predictor, levels, mask_features):
    predictor = build_predictor()
    seen = []
    for layer in predictor.transformer_cross_attention_layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[4]))
    masks = []
    predictor.mask_embed.register_forward_hook(lambda module, inputs, out: masks.append(out))
    predictor(levels, mask_features)
    dense = mask_features.map()
    for number, visible in enumerate(seen):
        level = levels[number % 3]
        logits = torch.einsum("bqc,bchw->bqhw", masks[number], dense)
        x, y = level.positions.long().unbind(-1)
        inside = torch.stack([logits[i][:, y[i], x[i]] >= 0 for i in range(2)])
        expected = inside | ~inside.any(-1, keepdim=True)
        assert torch.equal(visible[:, 0], expected)


@torch.no_grad()
def test_input_projection_is_linear(build_predictor, levels, mask_features):
    predictor = build_predictor(enforce_input_projection=True)
    assert predictor.input_proj[0].weight.shape == (DIM, DIM)
    assert predictor(levels, mask_features)["pred_masks"].isfinite().all()


def test_bad_input(build_predictor, levels, mask_features):
    predictor = build_predictor()
    with pytest.raises(ValueError, match=r"expected 3 feature maps.*got 2"):
        predictor(levels[:2], mask_features)
    with pytest.raises(ValueError, match=r"expected 3 feature maps.*got one Tokens"):
        predictor(mask_features, mask_features)
    with pytest.raises(ValueError, match="one in each of 6 x 8 cells, got 20 tokens"):
        predictor(levels, levels[2])
