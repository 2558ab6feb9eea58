"""The classifier: logits, tokens that leave each stage, gradients of all parameters."""

import re
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from torch import nn

from autofocusformer.tokens import Tokens
from parity.autofocusformer.model import BACKBONE_KEYS, input_batch
from parity.golden import Case, Comparison, fill_model, parametrize_cases
from parity.mask2former.capture import Capture
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg


def build_classifier(options: dict[str, Any]) -> nn.Module:
    """The classifier of a case's "model", float64, in eval mode, with golden weights."""
    cfg = get_cfg()
    for part in (f"backbones/aff_{options['size']}", "autofocusformer/classification"):
        cfg.merge_from_file(str(CONFIGS / "_base_" / f"{part}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    for word, key in BACKBONE_KEYS.items():
        if word in options:
            cfg.MODEL.AFF[key] = options[word]
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = options["classes"]
    model = build_model(cfg).double().eval()
    fill_model(model)
    return model


@parametrize_cases("autofocusformer", "classify_")
def test_classifier(case, comparison):
    model = build_classifier(case.info["model"])
    last = len(model.layers) - 1
    modules = [f"layers.{number}.downsample" for number in range(last)] + [f"layers.{last}"]
    with Capture(model, modules) as capture, torch.set_grad_enabled("gradient" in case.info):
        logits = model.network(input_batch(case))

    atol, rtol = case.info["atol"], case.info["rtol"]
    comparison.close("logits", unbatched(logits), case.arrays["logits"], atol, relative=rtol)
    for stage, name in enumerate(modules, start=1):
        output = capture.outputs[name]
        tokens = output if isinstance(output, Tokens) else output[0]
        prefix = f"stage{stage}_out_"
        comparison.equal(f"{prefix}pos", unbatched(tokens.positions), case.arrays[f"{prefix}pos"])
        step = re.search(r"every (\d+)", case.info["arrays"][f"{prefix}feat"])
        features = unbatched(tokens.features[:, :: int(step[1]) if step else 1])
        expected = case.arrays[f"{prefix}feat"]
        comparison.close(f"{prefix}feat", features, expected, atol, relative=rtol)
    if "gradient" in case.info:
        compare_gradients(comparison, case, model, logits)
    compared = {name for name, _, _ in comparison.rows}
    assert compared == {name for name in case.arrays if not name.endswith("_rgb")}
    comparison.check()


def unbatched(batch: torch.Tensor) -> torch.Tensor:
    """A case of one image has arrays without the dimension of the batch."""
    return batch[0] if len(batch) == 1 else batch


def compare_gradients(
    comparison: Comparison, case: Case, model: nn.Module, logits: torch.Tensor
) -> None:
    """Of each parameter: norm, sum and first entries, all relative to the norm."""
    description = case.info["gradient"]
    seed = int(re.search(r"PCG64\((\d+)\)", description["mode"])[1])
    weights = np.random.Generator(np.random.PCG64(seed)).standard_normal(logits.shape[1])
    parameters = dict(model.named_parameters())
    ordered = [parameters[name] for name in description["parameter_order"]]
    assert len(ordered) == len(parameters)
    grads = torch.autograd.grad((logits * torch.from_numpy(weights)).sum(), ordered)

    norms = case.arrays["grad_l2"].astype(np.float64)
    actual = {
        "grad_l2": [grad.norm() for grad in grads],
        "grad_sum": [grad.sum() for grad in grads],
        "grad_first4": [nn.functional.pad(grad.flatten()[:4], (0, 4))[:4] for grad in grads],
    }
    for name, values in actual.items():
        scale = norms.reshape(-1, *[1] * (case.arrays[name].ndim - 1))
        values, expected = torch.stack(values).numpy() / scale, case.arrays[name] / scale
        comparison.close(name, values, expected, description["rtol"])
