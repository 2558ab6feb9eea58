"""Statistics of the initial values of every parameter of the head."""

import math
import re

import torch
from detectron2.modeling import build_model

from parity.golden import GOLDEN_ROOT, Case, parametrize_cases
from parity.mask2former.model import build_model_for_case, published_cfg


@parametrize_cases("mask2former", "init_statistics_")
def test_initial_statistics(case):
    torch.manual_seed(0)
    model = build_model_for_case(case.info.get("config", {"num_classes": 133}))
    parameters = dict(model.named_parameters())
    heads = {name for name in parameters if name.startswith("sem_seg_head.")}
    assert heads == set(case.info["stats"])
    assert not others_than(parameters, case.info["stats"])


@parametrize_cases("mask2former_more", "init_statistics_")
def test_initial_statistics_of_other_decoders(case):
    torch.manual_seed(0)
    for config, entries in case.info["entries"].items():
        keys = Case(GOLDEN_ROOT / "mask2former_more" / f"keys_{config}.json").info
        model = build_model(published_cfg(keys["base_config"], keys["changes"]))
        stats = {name: statistics(entry) for name, entry in entries.items()}
        parameters = dict(model.sem_seg_head.named_parameters())
        # Layers beyond the first are left out of the case.
        later = {name for name in parameters if re.search(r"coder\.layers\.[1-9]", name)}
        assert parameters.keys() - later == stats.keys()
        assert not others_than(parameters, stats), config


def statistics(entry: dict) -> tuple[float, float, float, float]:
    """Mean, standard deviation and bounds of an entry that may state a constant."""
    if "constant" in entry:
        return entry["constant"], 0.0, entry["constant"], entry["constant"]
    return tuple(entry[key] for key in ("mean", "std", "min", "max"))


def others_than(parameters: dict, stats: dict) -> list[str]:
    """Names of the parameters that were drawn in another way than ``stats`` say."""
    failures = []
    for name, (mean, std, low, high) in stats.items():
        values = parameters[name].detach()
        if std == 0:
            same = (values - mean).abs().max() <= 1e-6
        else:
            same = _same_distribution(values, mean, std, low, high)
        if not same:
            failures.append(name)
    return failures


def _same_distribution(values, mean, std, low, high) -> bool:
    """Mean within 4 standard errors of both samples, std within 5 %, uniform bounds within 2 %."""
    standard_error = std / math.sqrt(values.numel())
    close = abs(values.mean() - mean) <= 4 * math.sqrt(2) * standard_error
    # The relative standard error of a small sample's std is larger than 5 %.
    close &= abs(values.std() / std - 1) <= max(0.05, 4 / math.sqrt(values.numel()))
    if max(abs(low), abs(high)) < 2 * std:  # uniform, not normal
        slack = max(0.02, 10 / values.numel())
        close &= abs(values.min() / low - 1) <= slack and abs(values.max() / high - 1) <= slack
    return bool(close)
