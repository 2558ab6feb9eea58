"""Merging of neighborhoods (AutoFocusFormer, Ziwen et al., CVPR 2023, section 3.3): a convolution
over scattered tokens whose weights depend on their positions (PointConv, Wu et al., 2019)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
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
from .gather_reference import gather_tokens, neighborhood_weighted_feature
from .offset_features import NUM_OFFSET_FEATURES, offset_features

NUM_WEIGHTS = 4
"""Weights of each member, and so merged copies of the channels."""


class Arguments(NamedTuple):
    """Checked arguments: int64 members; positions, importance and parameters in the precision of
    the sums."""

    features: Tensor
    positions: Tensor
    centers: Tensor
    members: Tensor
    mask: Tensor | None
    importance: Tensor | None
    linear_weight: Tensor
    linear_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def _merge(a: Arguments) -> Tensor:
    offsets = gather_tokens(a.positions, a.members) - a.centers[:, :, None]
    hidden = F.linear(offset_features(offsets), a.linear_weight, a.linear_bias)
    weights = F.gelu(F.layer_norm(hidden, (NUM_WEIGHTS,), a.norm_weight, a.norm_bias))
    if a.importance is not None:
        weights = weights * gather_tokens(a.importance[..., None], a.members)
    if a.mask is not None:
        weights = weights.masked_fill(~a.mask[..., None], 0)
    merged = neighborhood_weighted_feature(weights, a.features, a.members)
    return merged.flatten(2).to(a.features.dtype)


def _fake(a: Arguments) -> Tensor:
    batch, queries, _ = a.centers.shape
    return a.features.new_empty(batch, queries, NUM_WEIGHTS * a.features.shape[2])


@operator(
    Arguments,
    reference=_merge,
    fake=_fake,
    differentiable=(
        "features", "importance", "linear_weight", "linear_bias", "norm_weight", "norm_bias",
    ),
)  # fmt: skip
def neighborhood_merge(
    features: Tensor,
    positions: Tensor,
    centers: Tensor,
    members: Tensor,
    mask: Tensor | None,
    importance: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
) -> Arguments:
    """Sum the members of every neighborhood with four weights each that depend on their offsets.

    With ``o`` the offset of member ``j`` from the center and ``d`` its length::

        w = GELU(LayerNorm(linear_weight @ (dx, dy, d, dy/d, dx/d) + linear_bias)) * importance[j]
        output[r * C + c] = sum over the members of w[r] * features[j, c]

    where dy/d and dx/d are 0 at d = 0, the normalization is over the four numbers with epsilon
    1e-5, and GELU is the exact one. For offsets of the opposite sign (center minus member), negate
    columns 0, 1, 3 and 4 of ``linear_weight``.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`neighborhood_merge_reference`. Differentiable once in ``features``,
    ``importance`` and the four parameters; positions and centers are taken as constants.

    Args:
        features: (B, N, C); float64, float32, float16 or bfloat16
        positions: (B, N, 2) as (x, y), in any unit
        centers: (B, Q, 2) in the same unit
        members: (B, Q, m) int64 or int32, from 0 to N - 1
        mask: (B, Q, m) bool, False for members that are to be left out; None: all take part
        importance: (B, N) factors of the members; None: all 1
        linear_weight: (4, 5)
        linear_bias, norm_weight, norm_bias: (4,)

    All but features, members and mask is converted to float32, or to float64 if ``features`` is.
    Sums are accumulated in this precision.

    Returns:
        (B, Q, 4 * C) of the type of ``features``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
        RuntimeError: a member is out of range (on a GPU it is left out instead)
    """
    check_dims("features", features, ("B", "N", "C"))
    check_indices("members", members)
    check_dims("members", members, ("B", "Q", "m"))
    batch, tokens, _ = features.shape
    queries, size = members.shape[1:]
    expected = {
        "features": (features, features.shape),
        "positions": (positions, (batch, tokens, 2)),
        "centers": (centers, (batch, queries, 2)),
        "linear_weight": (linear_weight, (NUM_WEIGHTS, NUM_OFFSET_FEATURES)),
        "linear_bias": (linear_bias, (NUM_WEIGHTS,)),
        "norm_weight": (norm_weight, (NUM_WEIGHTS,)),
        "norm_bias": (norm_bias, (NUM_WEIGHTS,)),
    }
    if importance is not None:
        expected["importance"] = (importance, (batch, tokens))
    for name, (tensor, shape) in expected.items():
        check_floating(name, tensor)
        check_shape(name, tensor, shape)
    check_shape("members", members, (batch, queries, size))
    tensors = {name: tensor for name, (tensor, _) in expected.items()} | {"members": members}
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask: expected bool, got {mask.dtype}")
        check_shape("mask", mask, members.shape)
        tensors["mask"] = mask
    check_same_device(**tensors)
    precision = accumulation_type(features)
    return Arguments(
        features,
        positions.detach().to(precision),
        centers.detach().to(precision),
        members.long(),
        mask,
        None if importance is None else importance.to(precision),
        linear_weight.to(precision),
        linear_bias.to(precision),
        norm_weight.to(precision),
        norm_bias.to(precision),
    )


neighborhood_merge_reference = neighborhood_merge.reference
