"""Mask2Former's criterion: what the losses are, and what it does at the edges."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mask2former.criterion import SetCriterion, build_criterion
from segcore.config import get_cfg
from segcore.losses import (
    MaskSampler,
    dice_loss,
    point_sample,
    sigmoid_ce_loss,
    uncertain_points,
    uniform_points,
)
from segcore.matching import HungarianMatcher

K, NUM_POINTS = 6, 40


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def fixed_points(*size, dtype, device):
    """The same points for every prediction, not for every pair."""
    generator = torch.Generator().manual_seed(size[-1])
    return torch.rand(*size, 2, generator=generator, dtype=torch.float64).to(device, dtype)


def criterion(**arguments) -> SetCriterion:
    draw_points = arguments.pop("draw_points", fixed_points)
    matcher = HungarianMatcher(
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        num_points=NUM_POINTS,
        draw_points=draw_points,
    )
    defaults = {
        "num_classes": K,
        "matcher": matcher,
        "weight_dict": {
            f"loss_{kind}{level}": 1.0
            for kind in ("ce", "mask", "dice")
            for level in ("", "_0", "_1")
        },
        "no_object_weight": 0.1,
        "num_points": NUM_POINTS,
        "oversample_ratio": 3.0,
        "importance_sample_ratio": 0.75,
        "draw_points": draw_points,
    }
    return SetCriterion(**defaults | arguments)


def outputs_of(num_aux=2, batch=2, queries=5, dtype=torch.float64):
    def prediction():
        return {
            "pred_logits": torch.randn(batch, queries, K + 1, dtype=dtype, requires_grad=True),
            "pred_masks": torch.randn(batch, queries, 8, 12, dtype=dtype, requires_grad=True),
        }

    return {**prediction(), "aux_outputs": [prediction() for _ in range(num_aux)]}


def targets_of(*counts, size=(32, 48)):
    return [{"labels": torch.randint(K, (n,)), "masks": torch.rand(n, *size) > 0.5} for n in counts]


def level_by_level(criterion: SetCriterion, outputs, targets) -> dict[str, torch.Tensor]:
    """The losses as the paper states them: one prediction and one image after the other."""
    losses = {}
    num_masks = max(sum(len(target["labels"]) for target in targets), 1)
    labels = torch.cat([target["labels"] for target in targets])
    sampler = MaskSampler(torch.cat([target["masks"] for target in targets]))
    for suffix, level in [
        ("", outputs),
        *((f"_{i}", a) for i, a in enumerate(outputs["aux_outputs"])),
    ]:
        pairs = criterion.matcher([level], targets)
        image, query, target = (part[0] for part in pairs)
        classes = torch.full(level["pred_logits"].shape[:2], K)
        classes[image, query] = labels[target]
        weight = criterion.empty_weight.to(level["pred_logits"])
        losses["loss_ce" + suffix] = F.cross_entropy(
            level["pred_logits"].transpose(1, 2), classes, weight
        )
        masks = level["pred_masks"][image, query]
        points = uncertain_points(masks, NUM_POINTS, draw_points=criterion.draw_points)
        predicted = point_sample(masks[:, None], points)[:, 0]
        true = sampler(target, points)
        losses["loss_mask" + suffix] = sigmoid_ce_loss(predicted, true).sum() / num_masks
        losses["loss_dice" + suffix] = dice_loss(predicted, true).sum() / num_masks
    return losses


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (7, 1)], ids=str)
def test_levels_together_equal_level_by_level(counts):
    outputs, targets, loss = outputs_of(), targets_of(*counts), criterion()
    together = loss(outputs, targets)
    alone = level_by_level(loss, outputs, targets)
    assert together.keys() == alone.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name])
    for level in [outputs, *outputs["aux_outputs"]]:
        leaves = [level["pred_logits"], level["pred_masks"]]
        ours = torch.autograd.grad(sum(together.values()), leaves, retain_graph=True)
        theirs = torch.autograd.grad(sum(alone.values()), leaves, retain_graph=True)
        for gradient, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(gradient, expected)


def test_gradcheck():
    """With the choice of points fixed: it is no function to differentiate."""
    loss = criterion(importance_sample_ratio=0.0)
    outputs, targets = outputs_of(0, batch=1, queries=3), targets_of(2)
    loss.matcher = (lambda pairs: lambda *_: pairs)(loss.matcher([outputs], targets))

    def total(logits, masks):
        return sum(loss({"pred_logits": logits, "pred_masks": masks}, targets).values())

    assert torch.autograd.gradcheck(total, (outputs["pred_logits"], outputs["pred_masks"]))


def test_only_matched_masks_get_a_gradient():
    outputs, targets, loss = outputs_of(0), targets_of(2, 1), criterion()
    image, query, _ = (part[0] for part in loss.matcher([outputs], targets))
    sum(loss(outputs, targets).values()).backward()
    moved = outputs["pred_masks"].grad.flatten(2).abs().sum(-1) > 0
    expected = torch.zeros(2, 5, dtype=torch.bool)
    expected[image, query] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (7,), (0, 0)], ids=str)
@pytest.mark.parametrize("frames", [(), (3,)], ids=["image", "clip"])
def test_masks_by_their_factors(counts, frames):
    """Products made for matched queries alone have the losses and gradients of all products."""
    batch, height = len(counts), frames[0] if frames else 1
    outputs, targets = outputs_of(batch=batch), targets_of(*counts)
    for target in targets:
        if frames:
            target["masks"] = torch.rand(len(target["labels"]), *frames, 32, 48) > 0.5
    features = torch.randn(batch, 4, 8 * height, 12, dtype=torch.float64, requires_grad=True)
    predictions = [outputs, *outputs["aux_outputs"]]
    factors = [torch.randn(batch, 5, 4, dtype=torch.float64).requires_grad_() for _ in predictions]
    for prediction, embedding in zip(predictions, factors, strict=True):
        masks = torch.einsum("bqc,bchw->bqhw", embedding, features)
        prediction["pred_masks"] = masks.unflatten(2, (*frames, 8)) if frames else masks
    leaves = [features, *factors]

    expected = criterion()(outputs, targets)
    gradients = torch.autograd.grad(sum(expected.values()), leaves, retain_graph=True)
    for prediction, embedding in zip(predictions, factors, strict=True):
        prediction |= {"mask_embedding": embedding, "mask_features": features}
        prediction["pred_masks"] = prediction["pred_masks"].detach()
    actual = criterion()(outputs, targets)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(sum(actual.values()), leaves), gradients)


def test_without_targets():
    outputs, loss = outputs_of(), criterion()
    losses = loss(outputs, targets_of(0, 0))
    sum(losses.values()).backward()
    for suffix, level in zip(("", "_0", "_1"), [outputs, *outputs["aux_outputs"]], strict=True):
        assert losses["loss_mask" + suffix] == losses["loss_dice" + suffix] == 0
        no_object = -level["pred_logits"].log_softmax(-1)[..., -1].mean()
        torch.testing.assert_close(losses["loss_ce" + suffix], no_object)
        assert level["pred_masks"].grad.abs().max() == 0  # connected, for DDP


def test_perfect_prediction_has_no_loss():
    # Large squares, so that a quarter-size mask says as much.
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, :16], masks[1, 16:] = True, True
    targets = [{"labels": torch.tensor([1, 4]), "masks": masks}]
    logits = torch.full((1, 3, K + 1), -20.0)
    for query, label in enumerate((4, K, 1)):
        logits[0, query, label] = 20
    pred_masks = torch.full((1, 3, 8, 12), -20.0)
    pred_masks[0, 0, 4:], pred_masks[0, 2, :4] = 20, 20
    losses = criterion(importance_sample_ratio=0.0)(
        {"pred_logits": logits, "pred_masks": pred_masks}, targets
    )
    assert losses["loss_ce"] < 1e-6
    assert losses["loss_mask"] < 0.6  # of the points at the border alone
    assert losses["loss_dice"] < 0.1


def test_deep_supervision_can_be_off():
    losses = criterion(deep_supervision=False)(outputs_of(), targets_of(1, 2))
    assert losses.keys() == {"loss_ce", "loss_mask", "loss_dice"}


def test_random_points_follow_the_seed():
    outputs, targets = outputs_of(), targets_of(3, 2)
    loss = criterion(draw_points=uniform_points)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(loss(outputs, targets)["loss_mask"].item())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype):
    outputs, targets, loss = outputs_of(dtype=torch.float32), targets_of(3, 2), criterion()
    exact = loss(outputs, targets)

    def halved(level):
        return {name: level[name].to(dtype) for name in ("pred_logits", "pred_masks")}

    half = {**halved(outputs), "aux_outputs": [halved(aux) for aux in outputs["aux_outputs"]]}
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(half, targets)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.05)


def test_masks_may_be_of_any_type():
    outputs, targets, loss = outputs_of(), targets_of(3, 2), criterion()
    expected = loss(outputs, targets)
    for dtype in (torch.uint8, torch.float32):
        other = [{**target, "masks": target["masks"].to(dtype)} for target in targets]
        for name, value in loss(outputs, other).items():
            torch.testing.assert_close(value, expected[name])


def test_non_finite_prediction():
    outputs = outputs_of()
    with torch.no_grad():
        outputs["aux_outputs"][1]["pred_masks"][0, 2, 3, 3] = torch.nan
        outputs["aux_outputs"][1]["pred_masks"][0, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"aux_outputs\[1\], image 0 .* mask cost"):
        criterion()(outputs, targets_of(3, 2))


def test_label_out_of_range():
    targets = targets_of(3, 2)
    targets[0]["labels"][1] = 255
    with pytest.raises(ValueError, match=r"image 0 of the batch: expected 0 to 5 .* got 255"):
        criterion()(outputs_of(), targets)


def test_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"expected pred_logits \(B, Q, 5\).*got \(2, 5, 7\)"):
        criterion(num_classes=4)(outputs_of(), targets_of(1, 1))
    targets = targets_of(1) + targets_of(1, size=(32, 40))
    with pytest.raises(ValueError, match="masks of all images: expected one"):
        criterion()(outputs_of(), targets)


@pytest.mark.parametrize(("others", "mean"), [(0, 2.5), (5, 5.0), (15, 10.0)])
def test_masks_are_averaged_over_workers(monkeypatch, others, mean):
    """Five masks here and some on the other of two workers: both divide by the mean."""
    outputs, targets, loss = outputs_of(), targets_of(3, 2), criterion()
    alone = loss(outputs, targets)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(others))
    for name, value in loss(outputs, targets).items():
        factor = 1 if name.startswith("loss_ce") else 5 / mean
        torch.testing.assert_close(value, factor * alone[name])


def test_build_from_config():
    cfg = get_cfg()
    mask_former = cfg.MODEL.MASK_FORMER
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    mask_former.CLASS_WEIGHT, mask_former.MASK_WEIGHT, mask_former.DICE_WEIGHT = 2.0, 5.0, 4.0
    mask_former.DEC_LAYERS = 4
    mask_former.TRAIN_NUM_POINTS = 99
    loss = build_criterion(cfg)
    assert loss.empty_weight.tolist() == pytest.approx([1.0] * 19 + [0.1])
    assert loss.state_dict().keys() == {"empty_weight"}
    assert len(loss.weight_dict) == 12
    assert loss.weight_dict["loss_mask_2"] == 5 and loss.weight_dict["loss_dice"] == 4
    assert loss.matcher.num_points == loss.num_points == 99
    assert loss.matcher.dice_weight == 4

    mask_former.DEEP_SUPERVISION = False
    loss = build_criterion(cfg)
    assert loss.weight_dict.keys() == {"loss_ce", "loss_mask", "loss_dice"}
    assert not loss.deep_supervision
