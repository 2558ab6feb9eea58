"""One training step of the whole model: losses and the gradient of every parameter."""

import torch
from detectron2.structures import BitMasks, Instances

from eomt.checkpoint_names import to_official
from eomt.meta_arch import EoMT
from parity.eomt.model import MEAN, STD, build_network, fill_network
from parity.eomt.test_losses import build_criterion, official_losses, targets_of
from parity.golden import first_number, parametrize_cases, z

# The pixels' statistics in the range 0..255 round otherwise than the official ones.
LOSS_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 1e-5


def exact_statistics(model: EoMT) -> None:
    """Give the model the official statistics: float32, of pixels in [0, 1]."""
    for name, values in (("pixel_mean", MEAN), ("pixel_std", STD)):
        values = torch.tensor(values, dtype=torch.float32).double().view(3, 1, 1)
        setattr(model, name, 255 * values)


@parametrize_cases("eomt", "eomt_train_step_")
def test_train_step(case, comparison):
    config = case.config
    network = build_network(config)
    dinov3 = config["family"] == "dinov3"
    fill_network(network, dinov3=dinov3)
    model = EoMT(
        transformer=network,
        criterion=build_criterion(config, config["num_classes"]),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        input_size=tuple(config["image_size"]),
    )
    model.double().train()
    exact_statistics(model)

    inputs = []
    targets = targets_of(case, config["image_size"])
    for pixels, target in zip(case.arrays["image"], targets, strict=True):
        instances = Instances(pixels.shape[-2:])
        instances.gt_classes = target["labels"]
        instances.gt_masks = BitMasks(target["masks"])
        inputs.append({"image": torch.from_numpy(pixels), "instances": instances})
    losses = model(inputs)
    total = sum(losses.values())
    total.backward()

    weights = model.criterion.weight_dict
    unweighted = {name: value / weights[name] for name, value in losses.items()}
    for name, value in official_losses(unweighted, config["num_blocks"]).items():
        expected = case.info["losses_unweighted"][name]
        comparison.close(name, value, expected, LOSS_TOLERANCE, scaled=True)
    comparison.close("total", total, case.info["total_weighted"], LOSS_TOLERANCE, scaled=True)

    gradients = {}
    for name, parameter in network.named_parameters():
        official = to_official(name, dinov3=dinov3)
        gradients |= dict(zip(official, parameter.grad.chunk(len(official)), strict=True))
    expected = case.info["gradients_name_norm_projection"]
    assert gradients.keys() == {name for name, *_ in expected}
    global_norm = case.info["gradient_global_norm"]
    for name, norm, projection in expected:
        scale = max(norm, 1e-6 * global_norm)
        direction = torch.from_numpy(z(f"proj.{name}", gradients[name].shape))
        tolerance = GRADIENT_TOLERANCE
        comparison.close(f"norm {name}", gradients[name].norm() / scale, norm / scale, tolerance)
        product = (gradients[name] * direction).sum()
        comparison.close(f"proj {name}", product / scale, projection / scale, tolerance)
    assert first_number(case.info["tolerance"]) <= GRADIENT_TOLERANCE
    comparison.check()
