"""Matching and losses with given points, against the official criterion."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mask2former.criterion import SetCriterion
from parity.golden import generated, parametrize_cases
from parity.mask2former.injected_points import CriterionPoints, matcher_points
from segcore.matching import HungarianMatcher

WEIGHTS = {"loss_ce": "class_weight", "loss_mask": "mask_weight", "loss_dice": "dice_weight"}
RELATIVE_LOSS_ERROR = {torch.float64: 1e-8, torch.float32: 1e-5}


def build(config: dict) -> SetCriterion:
    suffixes = ["", *(f"_{i}" for i in range(config["num_aux"]))]
    return SetCriterion(
        num_classes=config["classes"],
        matcher=HungarianMatcher(
            class_weight=config["class_weight"],
            mask_weight=config["mask_weight"],
            dice_weight=config["dice_weight"],
            num_points=config["num_points"],
            draw_points=matcher_points,
        ),
        weight_dict={
            name + s: config[weight] for s in suffixes for name, weight in WEIGHTS.items()
        },
        no_object_weight=config["no_object_weight"],
        num_points=config["num_points"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
        draw_points=CriterionPoints(config["num_points"], config["oversample_ratio"]),
    )


def levels_of(case, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """Predictions by their name in the case, "final" first, ready to take gradients."""

    def prediction(number: int) -> dict[str, torch.Tensor]:
        return {
            key: generated(
                case.info["inputs"][f"{key} of prediction l"].replace("<l>", str(number))
            )
            .to(dtype)
            .requires_grad_()
            for key in ("pred_logits", "pred_masks")
        }

    num_aux = case.config["num_aux"]
    return {"final": prediction(num_aux)} | {f"aux{i}": prediction(i) for i in range(num_aux)}


def targets_of(case) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.from_numpy(
                case.unpacked(
                    f"target_masks_image{image}_packed",
                    (len(labels), *case.config["target_mask_hw"]),
                )
            ),
        }
        for image, labels in enumerate(case.info["target_labels"])
    ]


@pytest.fixture
def world_size(case, monkeypatch):
    """Workers that all hold the same batch, where the case has more than one."""
    size = case.config.get("world_size", 1)
    if size > 1:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: size)
        monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    return size


def compare_matching(comparison, case, names, costs, assignment, targets, unit: str) -> None:
    """Compare costs and pairs of the predictions ``names``; a ``unit`` is an image or a video."""
    first = np.cumsum([0] + [len(target["labels"]) for target in targets])
    for index, name in enumerate(names):
        for number in range(len(targets)):
            array = f"cost_{name}_{unit}{number}"
            if array in case.arrays:
                cost = sum(costs[index][number].values())
                comparison.close(array, cost, case.arrays[array], 1e-6)
            pairs = assignment.image[index] == number
            expected = case.info["assignment"][f"{name}_{unit}{number}"]
            query, target = assignment.query[index][pairs], assignment.target[index][pairs]
            comparison.equal(f"query {name} {number}", query, expected["query"])
            comparison.equal(f"target {name} {number}", target - first[number], expected["target"])


@parametrize_cases("mask2former", "criterion_")
def test_costs_and_assignment(case, comparison):
    levels, targets = levels_of(case, torch.float64), targets_of(case)
    matcher = build(case.config).matcher
    costs = matcher.costs(list(levels.values()), targets)
    assignment = matcher(list(levels.values()), targets)
    compare_matching(comparison, case, levels, costs, assignment, targets, "image")
    comparison.check()


@parametrize_cases("mask2former", "criterion_")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_losses(case, dtype, comparison, world_size):
    levels = list(levels_of(case, dtype).values())
    criterion = build(case.config).to(dtype)
    losses = criterion.unweighted({**levels[0], "aux_outputs": levels[1:]}, targets_of(case))
    expected = case.info["losses_unweighted"]
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        comparison.close(name, value, expected[name], RELATIVE_LOSS_ERROR[dtype], scaled=True)
    total = sum(criterion.weight_dict[name] * value for name, value in losses.items())
    comparison.close(
        "total", total, case.info["total_weighted"], RELATIVE_LOSS_ERROR[dtype], scaled=True
    )
    comparison.check()


@parametrize_cases("mask2former", "criterion_")
def test_gradients(case, comparison, world_size):
    levels, targets = levels_of(case, torch.float64), targets_of(case)
    criterion = build(case.config).double()
    final, *aux = levels.values()
    losses = criterion.unweighted({**final, "aux_outputs": aux}, targets)
    sum(criterion.weight_dict[name] * value for name, value in losses.items()).backward()
    for name, level in levels.items():
        array = f"grad_pred_logits_{name}"
        if array in case.arrays:
            gradient = case.sampled(array, level["pred_logits"].grad)
            comparison.close(array, gradient, case.arrays[array], 1e-6)
        gradient = level["pred_masks"].grad
        matched = torch.zeros(gradient.shape[:2], dtype=torch.bool)
        for image in range(len(targets)):
            matched[image, case.info["assignment"][f"{name}_image{image}"]["query"]] = True
        comparison.equal(
            f"unmatched {name}", gradient[~matched], torch.zeros_like(gradient[~matched])
        )
        array = f"grad_pred_masks_{name}_matched"
        if array in case.arrays:
            comparison.close(array, gradient[matched], case.arrays[array], 1e-6)
    comparison.check()
