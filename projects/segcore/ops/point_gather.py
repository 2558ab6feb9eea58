"""Weighted sums of a few tokens each, as in interpolation between tokens."""

from typing import NamedTuple

from torch import Tensor

from ._checks import (
    accumulation_type,
    check_dims,
    check_floating,
    check_indices,
    check_same_device,
    check_shape,
)
from ._operator import operator
from .gather_reference import weighted_gather


class Arguments(NamedTuple):
    """Checked arguments: int64 indices, weights in the precision of the sums."""

    features: Tensor
    indices: Tensor
    weights: Tensor


def _weighted_gather(a: Arguments) -> Tensor:
    output = weighted_gather(a.indices, a.weights, a.features.to(a.weights.dtype))
    return output.to(a.features.dtype)


def _fake(a: Arguments) -> Tensor:
    return a.features.new_empty(*a.indices.shape[:2], a.features.shape[2])


@operator(Arguments, reference=_weighted_gather, fake=_fake, differentiable=("features", "weights"))
def point_gather(features: Tensor, indices: Tensor, weights: Tensor) -> Arguments:
    """Compute ``output[b, q] = sum_s weights[b, q, s] * features[b, indices[b, q, s]]``.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`point_gather_reference`. Differentiable once in ``features`` and ``weights``.

    Args:
        features: (B, N, C); float64, float32, float16 or bfloat16
        indices: (B, Q, k) int64 or int32, from 0 to N - 1
        weights: (B, Q, k), converted to float32, or to float64 if ``features`` is. Sums are
            accumulated in this precision.

    Returns:
        (B, Q, C) of the type of ``features``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
        RuntimeError: an index is out of range (on a GPU it is left out instead)
    """
    check_floating("features", features)
    check_indices("indices", indices)
    check_floating("weights", weights)
    check_dims("features", features, ("B", "N", "C"))
    check_dims("indices", indices, ("B", "Q", "k"))
    check_shape("indices", indices, (features.shape[0], *indices.shape[1:]))
    check_shape("weights", weights, indices.shape)
    check_same_device(features=features, indices=indices, weights=weights)
    return Arguments(features, indices.long(), weights.to(accumulation_type(features)))


point_gather_reference = point_gather.reference
