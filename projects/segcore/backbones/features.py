"""What backbones return: maps, described by Detectron2's ``ShapeSpec``, or sets of tokens."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

FEATURES = ("res2", "res3", "res4", "res5")


class TokenShape(ShapeSpec):
    """The shape of a feature that is a set of tokens, with ``channels``; ``stride`` only ranks it.

    By this type of its ``output_shape()`` a backbone declares that it returns tokens.
    """


def are_tokens(shapes: Mapping[str, ShapeSpec]) -> bool:
    """Whether any feature of a backbone is a set of tokens."""
    return any(isinstance(shape, TokenShape) for shape in shapes.values())


def required_divisor(backbone: Backbone) -> int:
    """Return the number that sides of images must be multiples of for a backbone.

    This is 1 for backbones with an attribute ``accepts_any_size`` that is true; their
    ``size_divisibility`` is only what batches were padded to in training.
    """
    if getattr(backbone, "accepts_any_size", False):
        return 1
    return max(backbone.size_divisibility, 1)


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth (Huang et al., 2016, section 3) of each stage's blocks: from 0 at the first
    block of all, linearly to ``last``."""
    # On the CPU also where the network is built elsewhere, as on the meta device.
    rates = torch.linspace(0, last, sum(depths), device="cpu")
    return [stage.tolist() for stage in rates.split(list(depths))]
