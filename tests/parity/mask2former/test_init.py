"""Statistics of the initial values of every parameter of the head."""

import math

import torch

from parity.golden import parametrize_cases
from parity.mask2former.model import build_model_for_case


@parametrize_cases("mask2former", "init_statistics_")
def test_initial_statistics(case):
    torch.manual_seed(0)
    model = build_model_for_case(case.info.get("config", {"num_classes": 133}))
    parameters = dict(model.named_parameters())
    failures = []
    for name, (mean, std, low, high) in case.info["stats"].items():
        values = parameters[name].detach()
        if std == 0:
            same = (values - mean).abs().max() <= 1e-6
        else:
            same = _same_distribution(values, mean, std, low, high)
        if not same:
            failures.append(name)
    heads = {name for name in parameters if name.startswith("sem_seg_head.")}
    assert heads == set(case.info["stats"])
    assert not failures


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
