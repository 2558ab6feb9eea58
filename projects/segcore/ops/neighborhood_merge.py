"""Merging of neighbourhoods (AutoFocusFormer, Ziwen et al., CVPR 2023, section 3.3): a convolution
over scattered tokens whose weights depend on where they are (PointConv, Wu et al., 2019)."""

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
from ._library import is_compiled, refuse_second_derivative, register_operator
from .gather_reference import gather_tokens, neighbourhood_weighted_feature
from .inverse_distance import offset_features

NUM_FEATURES = 5
"""Features of an offset: (dx, dy, d, dy/d, dx/d)."""
NUM_WEIGHTS = 4
"""Weights that every member gets, and so merged copies of the channels."""


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
) -> Tensor:
    """Sum the members of every neighbourhood with four weights each that depend on their offsets.

    With ``o`` the offset of member ``j`` from the centre and ``d`` its length::

        w = GELU(LayerNorm(linear_weight @ (dx, dy, d, dy/d, dx/d) + linear_bias)) * importance[j]
        output[r * C + c] = sum over the members of w[r] * features[j, c]

    where dy/d and dx/d are 0 at d = 0, the normalisation is over the four numbers with epsilon
    1e-5, and GELU is the exact one. For offsets of the opposite sign (centre minus member), negate
    columns 0, 1, 3 and 4 of ``linear_weight``.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`neighborhood_merge_reference`. Differentiable once in ``features``,
    ``importance`` and the four parameters; positions and centres are taken as constants.

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
    arguments = _prepare(
        features, positions, centers, members, mask, importance,
        linear_weight, linear_bias, norm_weight, norm_bias,
    )  # fmt: skip
    if not is_compiled("neighborhood_merge", features.device.type):
        return _merge(*arguments)
    return torch.ops.segcore.neighborhood_merge(*arguments)


def neighborhood_merge_reference(
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
) -> Tensor:
    """The same as :func:`neighborhood_merge` in plain PyTorch: the specification of the kernels."""
    return _merge(*_prepare(
        features, positions, centers, members, mask, importance,
        linear_weight, linear_bias, norm_weight, norm_bias,
    ))  # fmt: skip


def _merge(
    features: Tensor,
    positions: Tensor,
    centers: Tensor,
    members: Tensor,
    mask: Tensor | None,
    importance: Tensor | None,
    *parameters: Tensor,
) -> Tensor:
    linear_weight, linear_bias, norm_weight, norm_bias = parameters
    offsets = gather_tokens(positions, members) - centers[:, :, None]
    hidden = F.linear(offset_features(offsets), linear_weight, linear_bias)
    weights = F.gelu(F.layer_norm(hidden, (NUM_WEIGHTS,), norm_weight, norm_bias))
    if importance is not None:
        weights = weights * gather_tokens(importance[..., None], members)
    if mask is not None:
        weights = weights.masked_fill(~mask[..., None], 0)
    merged = neighbourhood_weighted_feature(weights, features, members)
    return merged.flatten(2).to(features.dtype)


def _prepare(
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
) -> tuple[Tensor | None, ...]:
    """Check the arguments; int64 members, all other numbers in the precision of the sums."""
    check_dims("features", features, ("B", "N", "C"))
    check_indices("members", members)
    check_dims("members", members, ("B", "Q", "m"))
    batch, tokens, _ = features.shape
    queries, size = members.shape[1:]
    expected = {
        "features": (features, features.shape),
        "positions": (positions, (batch, tokens, 2)),
        "centers": (centers, (batch, queries, 2)),
        "linear_weight": (linear_weight, (NUM_WEIGHTS, NUM_FEATURES)),
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
    return (
        features,
        positions.detach().to(precision),
        centers.detach().to(precision),
        members.long(),
        mask,
        None if importance is None else importance.to(precision),
        *(
            parameter.to(precision)
            for parameter in (linear_weight, linear_bias, norm_weight, norm_bias)
        ),
    )


def _fake(features: Tensor, positions: Tensor, centers: Tensor, *others) -> Tensor:
    batch, queries, _ = centers.shape
    return features.new_empty(batch, queries, NUM_WEIGHTS * features.shape[2])


def _save_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_output: Tensor):
    importance = ctx.saved_tensors[5]
    grad_features, grad_importance, *grads = torch.ops.segcore.neighborhood_merge_backward(
        grad_output, *ctx.saved_tensors
    )
    grad_importance = None if importance is None else grad_importance
    return grad_features, None, None, None, None, grad_importance, *grads


def _fake_backward(grad_output: Tensor, features: Tensor, *others) -> tuple[Tensor, ...]:
    *_, importance, linear_weight, linear_bias, norm_weight, norm_bias = others
    empty = linear_weight.new_empty
    return (
        features.new_empty(features.shape),
        empty(0 if importance is None else importance.shape),
        *(empty(tensor.shape) for tensor in (linear_weight, linear_bias, norm_weight, norm_bias)),
    )


register_operator(
    "neighborhood_merge",
    fake=_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)
register_operator(
    "neighborhood_merge_backward",
    fake=_fake_backward,
    backward=refuse_second_derivative("neighborhood_merge"),
)
