"""The backbone: tokens of all stages, in their order, and what each downsampling chose."""

import re

import torch
from torch import Tensor

from autofocusformer.downsampling import grid_prior, on_grid
from autofocusformer.tokens import Tokens
from parity.autofocusformer.model import build_model_for_case, input_batch
from parity.golden import Case, Comparison, fill_model, parametrize_cases
from parity.mask2former.capture import Capture


@parametrize_cases("autofocusformer", "backbone_")
@torch.no_grad()
def test_backbone(case, comparison):
    backbone = build_model_for_case(case.info).backbone
    fill_model(backbone, prefix="backbone.")
    ways_down = [f"layers.{number}.downsample" for number in range(len(backbone.layers) - 1)]
    with Capture(backbone, ways_down) as capture:
        features = backbone(input_batch(case))

    compare_features(comparison, case, features)
    for number, name in enumerate(ways_down, start=1):
        module = backbone.get_submodule(name)
        compare_way_down(
            comparison, case, number, module, capture.inputs[name], capture.outputs[name]
        )
    comparison.require_results(case.arrays, results=r"res\d_(feat|pos)", inputs=".*_rgb")
    comparison.check()


def compare_features(comparison: Comparison, case: Case, features: dict[str, Tokens]) -> None:
    """Positions are exact; features have the tolerance of the case."""
    for name, tokens in features.items():
        comparison.equal(f"{name}_pos", tokens.positions, case.arrays[f"{name}_pos"])
        compare(comparison, case, f"{name}_feat", tokens.features)


def compare_way_down(
    comparison: Comparison, case: Case, stage: int, module, inputs: tuple, output: Tokens
) -> None:
    tokens, importance, neighborhood = inputs
    prefix = f"stage{stage}_"
    compare(comparison, case, f"{prefix}importance", importance)
    compare(comparison, case, f"{prefix}merged_every4", output.features)
    members, valid = neighborhood.members()
    exact = {
        "selected": module.select(tokens, importance),
        "grid_prior": grid_prior(tokens.positions, module.stride),
        "reserved": on_grid(tokens.positions, 2 * module.stride),
        "neighbours_every16": members,
        "neighbour_valid_every16": valid,
    }
    for name, actual in exact.items():
        if prefix + name in case.arrays:
            expected = case.arrays[prefix + name]
            comparison.equal(prefix + name, sampled(case, prefix + name, actual), expected)
    assert (valid is not None) == (f"{prefix}neighbour_valid_every16" in case.arrays)


def compare(comparison: Comparison, case: Case, name: str, actual: Tensor) -> None:
    atol = case.info.get("atol_if_run_in_float64", case.info["atol"])
    actual = sampled(case, name, actual)
    comparison.close(name, actual, case.arrays[name], atol, relative=case.info["rtol"])


def sampled(case: Case, name: str, full: Tensor) -> Tensor:
    """Every so many tokens, as the array was stored."""
    words = name if "_every" in name else case.info["arrays"].get(name, "")
    step = re.search(r"every ?(\d+)", words)
    if step is None:
        return full
    return full[:, :: int(step[1])][:, : case.arrays[name].shape[1]]
