"""Training: costs and assignments, losses, norms of the gradients of every part."""

from typing import NamedTuple

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from panoptic_segformer import matching
from panoptic_segformer.criterion import PanopticSegFormerCriterion, build_criterion
from parity.golden import Case, Comparison, parametrize_cases
from parity.panoptic_segformer.model import build_model_for_case, case_cfg, official_entries

# Losses that are a constant 0 in the original and that we leave out.
ZERO_TERMS = ("loss_cls_f", "loss_bbox_f", "loss_iou_f")


class Matching(NamedTuple):
    """A cost matrix (queries, things) and its optimal pairs."""

    cost: Tensor
    rows: Tensor
    columns: Tensor


@parametrize_cases("panoptic_segformer", "losses_")
def test_training_step(case, comparison, monkeypatch):
    model, matchings = training_model(case), recorded_matchings(monkeypatch)
    losses = model(training_inputs(case))
    sum(losses.values()).backward()

    compare_matchings(comparison, case, matchings)
    compare_losses(comparison, case, losses, case.info["tolerance"]["loss_terms_relative"])
    compare_gradients(comparison, case, model)
    comparison.check()


@parametrize_cases("panoptic_segformer", "losses_")
@torch.no_grad()
def test_losses_in_float32(case, comparison, monkeypatch):
    model, matchings = training_model(case).float(), recorded_matchings(monkeypatch)
    losses = model(training_inputs(case))
    if case.info["tolerance"]["same_assignment_in_float32"]:
        compare_matchings(comparison, case, matchings)
    compare_losses(comparison, case, losses, case.info["tolerance"]["float32_losses_relative"])
    comparison.check()


def training_model(case: Case) -> nn.Module:
    model = build_model_for_case(case).train()
    model.size_divisibility = size_divisibility(case.config)
    model.criterion = criterion_of(case)
    enable_all_gradients(model)
    return model


def criterion_of(case: Case) -> PanopticSegFormerCriterion:
    config, cfg = case.config, case_cfg(case.config, case.info["model"])
    assert config["cls_cost"] == config["loss_cls"] == config["loss_cls_stuff"] / 2
    assert config["mask_matching_cls_cost"] == 2 * config["cls_cost"]
    assert config["l1_cost"] == config["loss_l1"] and config["giou_cost"] == config["loss_giou"]
    assert config["mask_matching_dice_cost"] == config["loss_dice"]
    assert (config["focal_alpha"], config["focal_gamma"]) == (0.25, 2.0)
    segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    segformer.CLASS_WEIGHT = config["loss_cls"]
    segformer.L1_WEIGHT = config["loss_l1"]
    segformer.GIOU_WEIGHT = config["loss_giou"]
    segformer.DICE_WEIGHT = config["loss_dice"]
    segformer.OFFICIAL_EMPTY_THINGS = config["official_empty_things_rule"]
    return build_criterion(cfg)


def size_divisibility(config) -> int:
    """The largest divisor with which padding gives the case's padded size."""
    largest = [max(sides) for sides in zip(*config["image_sizes"], strict=True)]
    for divisor in (128, 64, 32, 16, 8, 4, 2, 1):
        if [-(-side // divisor) * divisor for side in largest] == config["padded_size"]:
            return divisor
    raise ValueError(f"no divisor pads {largest} to {config['padded_size']}")


def enable_all_gradients(model: nn.Module) -> None:
    """Also of stem, res2 and the frozen norms, whose scale and shift are buffers."""
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.requires_grad_()
            module.bias.requires_grad_()


def recorded_matchings(monkeypatch) -> list[Matching]:
    """Takes the matchings of the criterion, level by level and image by image, as they happen."""
    matchings, assign_by_parts = [], matching.assign_by_parts

    def recording(costs, **options):
        assignment = assign_by_parts(costs, **options)
        for level, images in enumerate(costs):
            first = 0
            for image, parts in enumerate(images):
                cost = sum(parts.values())
                pairs = assignment.image[level] == image
                rows, columns = assignment.query[level][pairs], assignment.target[level][pairs]
                matchings.append(Matching(cost, rows, columns - first))
                first += cost.shape[1]
        return assignment

    monkeypatch.setattr(matching, "assign_by_parts", recording)
    return matchings


def training_inputs(case: Case) -> list[dict]:
    images = len(case.config["image_sizes"])
    inputs = []
    for index, size in enumerate(case.config["image_sizes"]):
        number = "" if images == 1 else str(index)
        labels = torch.from_numpy(case.arrays[f"gt_labels{number}"]).long()
        instances = Instances(tuple(size))
        instances.gt_classes = labels
        masks = case.unpacked(f"gt_masks{number}", (len(labels), *size))
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
        instances.gt_boxes = Boxes(torch.from_numpy(case.arrays[f"gt_boxes{number}"]))
        pixels = torch.from_numpy(case.arrays[f"image{number}_rgb"])
        inputs.append({"image": pixels.permute(2, 0, 1), "instances": instances})
    return inputs


def compare_matchings(comparison: Comparison, case: Case, matchings: list[Matching]) -> None:
    """Images without things have no matching in the golden case."""
    matchings = [ours for ours in matchings if ours.cost.shape[1]]
    expected = sorted(case.info["assignments"], key=lambda golden: golden["step"])
    assert len(matchings) == len(expected)
    for golden, ours in zip(expected, matchings, strict=True):
        step, tolerance = golden["step"], case.info["tolerance"]["costs_absolute"]
        comparison.close(f"cost_{step}", ours.cost, case.arrays[f"cost_{step}"], tolerance)
        comparison.equal(f"rows {step}", ours.rows, golden["rows"])
        comparison.equal(f"columns {step}", ours.columns, golden["cols"])


def compare_losses(
    comparison: Comparison, case: Case, losses: dict[str, Tensor], tolerance: float
) -> None:
    expected = case.info["loss_terms"]
    zero = {name for name in expected if name.endswith(ZERO_TERMS)}
    assert all(expected[name] == 0 for name in zero)
    assert losses.keys() == expected.keys() - zero
    for name, loss in losses.items():
        relative(comparison, name, loss, expected[name], tolerance)
    relative(comparison, "total", sum(losses.values()), case.arrays["total"].item(), tolerance)


def compare_gradients(comparison: Comparison, case: Case, model: nn.Module) -> None:
    gradients = official_gradients(case, model)
    tolerance = case.info["tolerance"]["gradient_norms_relative"]
    dead = {name for name, ours in official_entries(case.info["model"]) if ours is None}
    for prefix, expected in case.info["gradient_l2_norms_of_the_total_by_prefix"].items():
        of_prefix = [
            gradient.norm()
            for name, gradient in gradients.items()
            if f"{name}.".startswith(f"{prefix}.")
        ]
        if not of_prefix:
            assert expected == 0 and any(name.startswith(prefix) for name in dead), prefix
            continue
        norm = torch.stack(of_prefix).norm()
        relative(comparison, f"gradient {prefix}", norm, expected, tolerance)
    zero = {name for name, gradient in gradients.items() if not gradient.any()}
    assert zero == set(case.info["parameters_with_exactly_zero_gradient"]) - dead


def official_gradients(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """Of every trainable entry, by its official name."""
    names = {ours: official for official, ours in official_entries(case.info["model"])}
    entries = dict(model.named_parameters()) | dict(model.named_buffers())
    entries = {name: entry for name, entry in entries.items() if entry.requires_grad}
    assert all(entry.grad is not None for entry in entries.values())
    return {names[name]: entry.grad for name, entry in entries.items()}


def relative(comparison: Comparison, name: str, actual, expected: float, tolerance: float) -> None:
    """|actual - expected| within ``tolerance`` * |expected|; exactly 0 where that is expected."""
    scale = abs(expected) or 1.0
    comparison.close(name, actual / scale, expected / scale, tolerance if expected else 0.0)
