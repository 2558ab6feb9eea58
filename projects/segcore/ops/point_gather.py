"""Weighted sums of a few tokens each, as in interpolation between tokens."""

import torch
from torch import Tensor

from ._checks import (
    accumulation_type,
    check_dims,
    check_floating,
    check_indices,
    check_same_device,
    check_shape,
)
from ._library import is_compiled, refuse_second_derivative, register_operator
from .gather_reference import weighted_gather


def point_gather(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """``output[b, q] = sum_s weights[b, q, s] * features[b, indices[b, q, s]]``.

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
    indices, weights = _prepare(features, indices, weights)
    if not is_compiled("point_gather", features.device.type):
        return _gather(features, indices, weights)
    return torch.ops.segcore.point_gather(features, indices, weights)


def point_gather_reference(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """The same as :func:`point_gather` in plain PyTorch: the specification of the kernels."""
    return _gather(features, *_prepare(features, indices, weights))


def _prepare(features: Tensor, indices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Check the arguments; int64 indices, and weights in the precision of the sums."""
    check_floating("features", features)
    check_indices("indices", indices)
    check_floating("weights", weights)
    check_dims("features", features, ("B", "N", "C"))
    check_dims("indices", indices, ("B", "Q", "k"))
    check_shape("indices", indices, (features.shape[0], *indices.shape[1:]))
    check_shape("weights", weights, indices.shape)
    check_same_device(features=features, indices=indices, weights=weights)
    return indices.long(), weights.to(accumulation_type(features))


def _gather(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    return weighted_gather(indices, weights, features.to(weights.dtype)).to(features.dtype)


def _fake(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    return features.new_empty(*indices.shape[:2], features.shape[2])


def _save_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_output: Tensor):
    features, indices, weights = ctx.saved_tensors
    grad_features, grad_weights = torch.ops.segcore.point_gather_backward(
        grad_output, features, indices, weights
    )
    return grad_features, None, grad_weights


def _fake_backward(
    grad_output: Tensor, features: Tensor, indices: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), weights.new_empty(weights.shape)


register_operator(
    "point_gather",
    fake=_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)
register_operator(
    "point_gather_backward",
    fake=_fake_backward,
    backward=refuse_second_derivative("point_gather"),
)
