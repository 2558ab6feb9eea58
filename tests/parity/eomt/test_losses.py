"""Matching and losses of all predictions with given points."""

import numpy as np
import torch
from detectron2.config import CfgNode

from mask2former.criterion import SetCriterion, criterion_of
from parity.golden import generated, parametrize_cases
from parity.mask2former.injected_points import CriterionPoints, matcher_points

NAMES = {"loss_ce": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


def build_criterion(config: dict, num_classes: int) -> SetCriterion:
    keys = ("class_weight", "mask_weight", "dice_weight", "no_object_weight", "oversample_ratio")
    section = CfgNode({key.upper(): config[key] for key in (*keys, "importance_sample_ratio")})
    section.TRAIN_NUM_POINTS, section.DEEP_SUPERVISION = config["num_points"], True
    num_aux = config["num_predictions"] - 1
    criterion = criterion_of(section, num_classes, num_aux, normalize_by_matched=True).double()
    criterion.matcher.draw_points = matcher_points
    criterion.draw_points = CriterionPoints(config["num_points"], config["oversample_ratio"])
    return criterion


def official_losses(losses: dict[str, torch.Tensor], num_aux: int) -> dict[str, torch.Tensor]:
    """Losses by their official names: ours count the predictions, theirs the blocks to come."""
    named = {}
    for ours, official in NAMES.items():
        named[official] = losses[ours]
        for index in range(num_aux):
            named[f"{official}_block_{index - num_aux}"] = losses[f"{ours}_{index}"]
    return named


def predictions_of(case) -> list[dict[str, torch.Tensor]]:
    """Predictions by depth, ready to take gradients."""
    return [
        {
            key: generated(
                case.info["inputs"][f"{key} of prediction l"].replace("<l>", str(index))
            ).requires_grad_()
            for key in ("pred_logits", "pred_masks")
        }
        for index in range(case.config["num_predictions"])
    ]


def targets_of(case, size) -> list[dict[str, torch.Tensor]]:
    targets = []
    for image, labels in enumerate(case.info["target_labels"]):
        masks = torch.zeros((0, *size), dtype=torch.bool)
        if labels:
            packed = case.unpacked(f"target_masks_image{image}", (len(labels), *size))
            masks = torch.from_numpy(packed)
        targets.append({"labels": torch.tensor(labels, dtype=torch.int64), "masks": masks})
    return targets


@parametrize_cases("eomt", "eomt_losses_")
def test_losses(case, comparison):
    config, arrays = case.config, case.arrays
    criterion = build_criterion(config, config["classes"])
    predictions, targets = predictions_of(case), targets_of(case, config["target_mask_hw"])
    *auxiliary, final = predictions

    ordered = [final, *auxiliary]
    costs, assignment = (
        compute(ordered, targets) for compute in (criterion.matcher.costs, criterion.matcher)
    )
    first = np.cumsum([0] + [len(target["labels"]) for target in targets])
    for index in range(len(predictions)):
        ours = (index + 1) % len(predictions)  # the final prediction comes first
        for image in range(len(targets)):
            expected = case.info["assignment"][f"prediction{index}_image{image}"]
            pairs = assignment.image[ours] == image
            target = assignment.target[ours][pairs] - first[image]
            comparison.equal(
                f"query {index} {image}", assignment.query[ours][pairs], expected["query"]
            )
            comparison.equal(f"target {index} {image}", target, expected["target"])
    for image in range(len(targets)):
        name = f"cost_final_image{image}"
        if name in arrays:
            comparison.close(name, sum(costs[0][image].values()), arrays[name], 1e-6)

    losses = criterion.unweighted({**final, "aux_outputs": auxiliary}, targets)
    for name, value in official_losses(losses, len(auxiliary)).items():
        comparison.close(name, value, case.info["losses_unweighted"][name], 1e-8, scaled=True)
    total = sum(criterion({**final, "aux_outputs": auxiliary}, targets).values())
    comparison.close("total", total, case.info["total_weighted"], 1e-8, scaled=True)
    total.backward()
    gradients = {
        "grad_masks_final": final["pred_masks"].grad,
        "grad_logits_first": predictions[0]["pred_logits"].grad,
    }
    for name, gradient in gradients.items():
        if name in arrays:
            comparison.close(name, case.sampled(name, gradient), arrays[name], 1e-6)
    comparison.require_results(arrays, results="cost_.*|grad_.*", inputs="target_masks_.*")
    comparison.check()


@parametrize_cases("eomt", "eomt_losses_more_targets_than_queries")
def test_losses_by_targets(case, comparison):
    """Mask2Former's normalizer, the number of targets."""
    criterion = build_criterion(case.config, case.config["classes"])
    criterion.normalize_by_matched = False
    *auxiliary, final = predictions_of(case)
    targets = targets_of(case, case.config["target_mask_hw"])
    losses = criterion.unweighted({**final, "aux_outputs": auxiliary}, targets)
    for name, value in official_losses(losses, len(auxiliary)).items():
        expected = case.info["losses_if_divided_by_targets"][name]
        comparison.close(name, value, expected, 1e-8, scaled=True)
    comparison.check()
