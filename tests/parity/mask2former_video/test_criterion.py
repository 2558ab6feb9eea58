"""Matching and losses of clips with given points, against the official criterion."""

import numpy as np
import pytest
import torch

from mask2former.criterion import SetCriterion
from parity.golden import parametrize_cases
from parity.mask2former.test_criterion import RELATIVE_LOSS_ERROR, compare_matching, levels_of
from parity.mask2former.test_criterion import build as build_for_images
from parity.mask2former_video.inputs import OfficialMatcher, with_one_class_more


def build(config: dict) -> SetCriterion:
    weight = float(np.float32(config["no_object_weight"].split()[0]))
    criterion = build_for_images({**config, "no_object_weight": weight})
    matcher = OfficialMatcher.__new__(OfficialMatcher)
    vars(matcher).update(vars(criterion.matcher))
    criterion.matcher = matcher
    return criterion


def targets_of(case) -> list[dict[str, torch.Tensor]]:
    config = case.config
    shape = (config["frames"], *config["target_mask_hw"])
    return [
        {
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.from_numpy(
                case.unpacked(f"target_masks_{video}_packed", (len(labels), *shape))
            ),
        }
        for video, labels in enumerate(case.info["target_labels"])
    ]


@parametrize_cases("mask2former_video", "criterion_")
def test_clip_costs_and_assignment(case, comparison):
    levels, targets = levels_of(case, torch.float64), targets_of(case)
    matcher = build(case.config).matcher
    costs = matcher.costs(with_one_class_more(levels.values()), targets)
    assignment = matcher(list(levels.values()), targets)
    compare_matching(comparison, case, levels, costs, assignment, targets, "video")
    comparison.check()


@parametrize_cases("mask2former_video", "criterion_")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_clip_losses_and_gradients(case, dtype, comparison):
    levels = levels_of(case, dtype)
    criterion = build(case.config).to(dtype)
    final, *aux = levels.values()
    losses = criterion.unweighted({**final, "aux_outputs": aux}, targets_of(case))
    expected = case.info["losses_unweighted"]
    assert losses.keys() == expected.keys()
    tolerance = RELATIVE_LOSS_ERROR[dtype]
    for name, value in losses.items():
        comparison.close(name, value, expected[name], tolerance, scaled=True)
    total = sum(criterion.weight_dict[name] * value for name, value in losses.items())
    comparison.close("total", total, case.info["total_weighted"], tolerance, scaled=True)
    if dtype is torch.float64:
        total.backward()
        for name, level in levels.items():
            for key in ("pred_logits", "pred_masks"):
                array = f"grad_{key}_{name}"
                if array in case.arrays:
                    gradient = case.sampled(array, level[key].grad)
                    comparison.close(array, gradient, case.arrays[array], 1e-6)
        inputs = "target_masks.*|cost_.*"
        comparison.require_results(case.arrays, results="grad_.*", inputs=inputs)
    comparison.check()
