"""Matching by class and masks: its costs, batched over predictions, clear about bad input."""

import pytest
import torch

from segcore.losses import dice_loss, point_sample, sigmoid_ce_loss
from segcore.matching import HungarianMatcher

WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 4.0}
NUM_CLASSES = 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def matcher(num_points=40, **arguments):
    return HungarianMatcher(**WEIGHTS, num_points=num_points, **arguments)


def prediction(batch=2, queries=5, dtype=torch.float32):
    return {
        "pred_logits": torch.randn(batch, queries, NUM_CLASSES + 1, dtype=dtype),
        "pred_masks": 3 * torch.randn(batch, queries, 8, 12, dtype=dtype),
    }


def target(num, size=(32, 48)):
    return {
        "labels": torch.randint(NUM_CLASSES, (num,)),
        "masks": torch.rand(num, *size) > 0.5,
    }


@pytest.mark.parametrize("counts", [(0, 0), (0,)])
def test_no_target(counts):
    targets = [target(n) for n in counts]
    pairs = matcher()([prediction(len(counts))] * 3, targets)
    assert all(part.shape == (3, 0) and part.dtype == torch.int64 for part in pairs)


def test_costs_equal_pair_by_pair_losses():
    points = torch.rand(1, 40, 2, dtype=torch.float64)
    predictions = [prediction(dtype=torch.float64) for _ in range(3)]
    targets = [target(3), target(1)]
    costs = matcher(draw_points=lambda *size, **_: points).costs(predictions, targets)
    for level, parts in zip(predictions, costs, strict=True):
        for image, (truth, part) in enumerate(zip(targets, parts, strict=True)):
            masks = point_sample(level["pred_masks"][image][None], points)[0][:, None]
            true = point_sample(truth["masks"][None].double(), points)[0][None]
            pairs = torch.broadcast_tensors(masks, true)
            probability = level["pred_logits"][image].softmax(-1)[:, truth["labels"]]
            torch.testing.assert_close(part["class"], -2 * probability)
            torch.testing.assert_close(part["mask"], 5 * sigmoid_ce_loss(*pairs))
            torch.testing.assert_close(part["dice"], 4 * dice_loss(*pairs))


def test_levels_together_equal_levels_alone():
    points = torch.rand(1, 40, 2)
    predictions, targets = [prediction() for _ in range(4)], [target(3), target(9)]
    match = matcher(draw_points=lambda *size, **_: points)
    together = match(predictions, targets)
    for index, level in enumerate(predictions):
        alone = match([level], targets)
        for part, expected in zip(together, alone, strict=True):
            assert torch.equal(part[index], expected[0])


def test_finds_the_prediction_of_each_target():
    targets = [target(4)]
    order = torch.tensor([2, 0, 3, 1])
    logits = torch.zeros(1, 4, NUM_CLASSES + 1)
    logits[0, torch.arange(4), targets[0]["labels"][order]] = 5
    masks = 20 * targets[0]["masks"][order].float()[None] - 10
    pairs = matcher(400)([{"pred_logits": logits, "pred_masks": masks}], targets)
    assert pairs.query.tolist() == [[0, 1, 2, 3]]
    assert pairs.target.tolist() == [order.tolist()]


def test_points_are_fresh_for_each_level_and_image():
    drawn = []

    def draw(*size, dtype, device):
        drawn.append(torch.rand(*size, 2, dtype=dtype, device=device))
        return drawn[-1]

    matcher(draw_points=draw)([prediction()] * 3, [target(1), target(2)])
    assert len({points.sum().item() for points in drawn}) == 6


def test_half_precision_is_promoted_also_under_autocast():
    level = {name: value.bfloat16() for name, value in prediction().items()}
    with torch.autocast("cpu", torch.bfloat16):
        costs = matcher().costs([level], [target(2), target(1)])
    assert all(part.dtype == torch.float32 for parts in costs[0] for part in parts.values())


def test_no_gradient():
    level = {name: value.requires_grad_() for name, value in prediction().items()}
    costs = matcher().costs([level], [target(2), target(1)])
    assert not any(part.requires_grad for parts in costs[0] for part in parts.values())


@pytest.mark.parametrize(
    ("key", "cost"), [("pred_logits", "class cost 10 of 10"), ("pred_masks", "mask cost 2 of 10")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_costs_are_named(key, cost, value):
    predictions = [prediction() for _ in range(3)]
    predictions[2][key][1, :, :] = 0
    where = (1, slice(None), 0) if key == "pred_logits" else (1, 3)
    predictions[2][key][where] = value
    expected = rf"aux_outputs\[1\], image 1 of the batch: .*{cost}"
    with pytest.raises(FloatingPointError, match=expected):
        matcher()(predictions, [target(1), target(2)])
    predictions[0], predictions[2] = predictions[2], predictions[0]
    with pytest.raises(FloatingPointError, match="in the final prediction, image 1"):
        matcher()(predictions, [target(1), target(2)])


@pytest.mark.parametrize("label", [-1, NUM_CLASSES, 255])
def test_label_out_of_range(label):
    targets = [target(2), target(3)]
    targets[1]["labels"][2] = label
    with pytest.raises(ValueError, match=rf"image 1 .* expected 0 to 5 \(6 classes\), got {label}"):
        matcher()([prediction()] * 2, targets)


def test_shapes_that_disagree():
    with pytest.raises(ValueError, match="expected one of each of 2 images, got 1"):
        matcher()([prediction()], [target(1)])
    uneven = target(3)
    uneven["labels"] = uneven["labels"][:2]
    with pytest.raises(ValueError, match=r"image 1 of the batch: .* got 2 and 3"):
        matcher()([prediction()], [target(1), uneven])
    with pytest.raises(ValueError, match="num_points"):
        matcher(0)
