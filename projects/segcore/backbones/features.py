"""What backbones return: maps, described by Detectron2's ``ShapeSpec``, or sets of tokens."""

from collections.abc import Mapping

from detectron2.layers import ShapeSpec


class TokenShape(ShapeSpec):
    """The shape of a feature that is a set of tokens, with ``channels``; ``stride`` only ranks it.

    By this type of its ``output_shape()`` a backbone declares that it returns tokens.
    """


def are_tokens(shapes: Mapping[str, ShapeSpec]) -> bool:
    """Whether any feature of a backbone is a set of tokens."""
    return any(isinstance(shape, TokenShape) for shape in shapes.values())
