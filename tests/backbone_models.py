"""Backbones for tests."""

from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter counts, in float64."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()
