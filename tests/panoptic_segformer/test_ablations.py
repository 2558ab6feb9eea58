"""The switches of ablations."""

import pytest
import torch

from panoptic_segformer.encoder_attention import PlainAttention, SingleScaleAttention
from segcore.config.validation import validate_config
from segcore.errors import ConfigError
from segcore.layers import flatten_levels

from .test_training import (
    NUM_CLASSES,
    STUFF,
    THINGS,
    photo,
    small_cfg,
    small_model,
    without_gradient,
)

SWITCHES = [
    ("JOINT_QUERIES", True),
    ("LOCATION_TARGET", "none"),
    ("ENCODER_ATTENTION", "single_scale"),
    ("ENCODER_ATTENTION", "plain"),
]


@pytest.mark.parametrize(("key", "value"), SWITCHES)
def test_training_step_and_results(key, value):
    model = small_model(**{key: value})
    batch = [photo(THINGS + STUFF), photo(STUFF, size=(48, 64))]
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert not without_gradient(model)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    for inputs, result in zip(batch, model.eval()(batch), strict=True):
        size = inputs["image"].shape[-2:]
        assert result["sem_seg"].shape == (NUM_CLASSES, *size)
        instances = result["instances"]
        assert set(instances.pred_classes.tolist()) <= set(THINGS)
        assert len(instances.pred_boxes) == len(instances)


def test_location_is_no_task_of_its_own():
    losses = small_model(LOCATION_TARGET="none")([photo(THINGS)])
    assert losses["loss_centre"] == losses["d0.loss_centre"] == 0


def test_joint_queries_learn_all_classes():
    joint, separate = small_model(JOINT_QUERIES=True), small_model()
    assert joint.location_decoder.class_embed[0].out_features == NUM_CLASSES
    assert separate.location_decoder.class_embed[0].out_features == len(set(THINGS))
    assert joint.num_queries == joint.location_decoder.query_embed.num_embeddings
    assert joint.result_maker.thing_ids == separate.result_maker.thing_ids


def tokens(shapes):
    torch.manual_seed(0)
    return flatten_levels([torch.randn(2, 8, *shape) for shape in shapes])


@pytest.mark.parametrize("padded", [False, True])
def test_single_scale_keeps_levels_apart(padded):
    shapes = [(4, 6), (2, 3)]
    attention, x = SingleScaleAttention(8, 2, 2, 4), tokens(shapes)
    points = torch.rand(2, 30, 2, 2)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[1, 20:24] = True
    mask = mask if padded else None
    first = attention(x, points, x, shapes, mask)
    changed = x.clone()
    changed[:, 24:] += 1
    second = attention(changed, points, changed, shapes, mask)
    assert torch.equal(first[:, :24], second[:, :24])
    assert not torch.allclose(first[:, 24:], second[:, 24:])


def test_plain_attention_sees_everything_but_padding():
    attention, x = PlainAttention(8, 2, 2, 4), tokens([(4, 6), (2, 3)])
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[:, 5] = True
    changed = x.clone()
    changed[:, 5] += 1
    first, second = (attention(x, None, value, [], mask) for value in (x, changed))
    assert torch.equal(first, second)
    changed[:, 29] += 1
    assert not torch.equal(attention(x, None, changed, [], mask)[:, 0], first[:, 0])


@pytest.mark.parametrize("key", ["JOINT_QUERIES", "LOCATION_TARGET", "ENCODER_ATTENTION"])
def test_wrong_values(key):
    cfg = small_cfg(**{key: "any"})
    with pytest.raises(ConfigError, match=rf"\AMODEL.PANOPTIC_SEGFORMER.{key}: exp[^\n]*'any'\Z"):
        validate_config(cfg)
