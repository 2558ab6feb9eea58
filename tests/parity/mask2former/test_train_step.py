"""One training step of the whole model: losses, assignment, gradients, first optimizer step."""

import re

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from parity.golden import fill_model, first_number, parametrize_cases, z
from parity.mask2former.injected_points import CriterionPoints, matcher_points
from parity.mask2former.model import case_cfg
from segcore.solver import build_optimizer

# Below it AdamW's first step, nearly the gradient's sign, is left to rounding.
CERTAIN_GRADIENT = 1e-5
CERTAIN_SHARE = 0.995


@parametrize_cases("mask2former", "train_step_")
def test_train_step(case, comparison):
    cfg = training_cfg(case)
    model, assignments = training_model(case, cfg)
    losses = model(training_inputs(case))
    sum(losses.values()).backward()

    compare_losses(comparison, case, losses)
    compare_assignments(comparison, case, *assignments)
    global_norm = compare_gradients(comparison, case, model)
    compare_first_step(comparison, case, model, build_optimizer(cfg, model), global_norm)
    comparison.check()


def training_cfg(case) -> CfgNode:
    config, cfg = case.config, case_cfg(case.config)
    mask_former, solver = cfg.MODEL.MASK_FORMER, cfg.SOLVER
    mask_former.TRAIN_NUM_POINTS = case.info["num_points"]
    mask_former.OVERSAMPLE_RATIO = config["oversample_ratio"]
    mask_former.IMPORTANCE_SAMPLE_RATIO = config["importance_sample_ratio"]
    mask_former.NO_OBJECT_WEIGHT = config["no_object_weight"]
    mask_former.CLASS_WEIGHT = config["class_weight"]
    mask_former.MASK_WEIGHT = config["mask_weight"]
    mask_former.DICE_WEIGHT = config["dice_weight"]
    solver.BASE_LR = config["base_lr"]
    solver.WEIGHT_DECAY = config["weight_decay"]
    solver.BACKBONE_MULTIPLIER = config["backbone_multiplier"]
    solver.CLIP_GRADIENTS.CLIP_VALUE = config["clip_norm"]
    return cfg


def training_model(case, cfg: CfgNode) -> tuple[nn.Module, list]:
    """The model with the case's weights and points, and the list its assignments will go to."""
    model = build_model(cfg).double().train()
    fill_model(model, overrides=case.weight_overrides)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            module.eval()
    criterion, assignments = model.criterion, []
    criterion.draw_points = CriterionPoints(criterion.num_points, case.config["oversample_ratio"])
    matcher = criterion.matcher
    matcher.draw_points = matcher_points

    def remember(*arguments):
        assignments.append(matcher(*arguments))
        return assignments[-1]

    criterion.matcher = remember
    return model, assignments


def training_inputs(case) -> list[dict]:
    inputs = []
    for image, labels in enumerate(case.info["target_labels"]):
        pixels = torch.from_numpy(case.arrays[f"image{image}"])
        size = tuple(pixels.shape[-2:])
        masks = case.unpacked(f"target_masks{image}_packed", (len(labels), *size))
        instances = Instances(size)
        instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
        inputs.append({"image": pixels, "instances": instances})
    return inputs


def compare_losses(comparison, case, losses: dict[str, Tensor]) -> None:
    expected = case.info["losses_weighted"]
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        comparison.close(name, value, expected[name], case.tolerance, scaled=True)
    total = case.info["total"]
    comparison.close("total", sum(losses.values()), total, case.tolerance, scaled=True)


def compare_assignments(comparison, case, assignment) -> None:
    first_target = [0]
    for labels in case.info["target_labels"]:
        first_target.append(first_target[-1] + len(labels))
    for name, expected in case.info["assignment"].items():
        prediction, image = re.fullmatch(r"(final|aux\d+)_image(\d+)", name).groups()
        level = 0 if prediction == "final" else int(prediction.removeprefix("aux")) + 1
        pairs = assignment.image[level] == int(image)
        target = assignment.target[level][pairs] - first_target[int(image)]
        comparison.equal(f"{name} query", assignment.query[level][pairs], expected["query"])
        comparison.equal(f"{name} target", target, expected["target"])


def compare_gradients(comparison, case, model: nn.Module) -> Tensor:
    """Norm and projection of every parameter's gradient; returns the global norm."""
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    expected = case.info["gradients_name_norm_projection"]
    assert parameters.keys() - gradients.keys() == set(case.info["parameters_without_gradient"])
    assert gradients.keys() == {name for name, *_ in expected}

    tolerance = first_number(case.info["tolerance"].partition("projections")[2])
    golden_norm = case.info["gradient_global_norm"]
    for name, norm, projection in expected:
        gradient = gradients[name]
        scale = max(norm, 1e-6 * golden_norm)
        direction = torch.from_numpy(z(f"proj.{name}", gradient.shape))
        comparison.close(f"norm {name}", gradient.norm() / scale, norm / scale, tolerance)
        comparison.close(
            f"projection {name}",
            (gradient * direction).sum() / scale,
            projection / scale,
            tolerance,
        )
    global_norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    comparison.close("global norm", global_norm / golden_norm, 1.0, tolerance)
    return global_norm


def compare_first_step(comparison, case, model: nn.Module, optimizer, global_norm: Tensor) -> None:
    parameters = dict(model.named_parameters())
    names = {array.partition("/")[2] for array in case.arrays if array.startswith("delta/")}
    before = {name: parameters[name].detach().clone() for name in names}
    relative = {name: parameters[name].grad / global_norm for name in names}
    optimizer.step()
    for name in names:
        expected = torch.from_numpy(case.arrays[f"delta/{name}"]).double()
        rows = slice(len(expected))
        gradient = relative[name][rows]
        comparison.close(f"grad {name}", gradient, case.arrays[f"grad/{name}"], 1e-6)
        certain = gradient.abs() > CERTAIN_GRADIENT
        delta = (parameters[name].detach() - before[name])[rows]
        error = (delta - expected).abs()[certain]
        tolerance = first_number(case.info["tolerance_delta"])
        share = (error <= tolerance).double().mean() if len(error) else 1.0
        comparison.close(f"delta {name}: share beyond", 1 - share, 0.0, 1 - CERTAIN_SHARE)
