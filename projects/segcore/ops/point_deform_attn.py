"""Deformable attention over scattered tokens (AutoFocusFormer, Ziwen et al., CVPR 2023): a query
samples a few points of the plane, each interpolated from its nearest tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    accumulation_type,
    as_canvas_size,
    check_dims,
    check_floating,
    check_indices,
    check_same_device,
    check_shape,
)
from ._operator import operator
from .gather_reference import deformable_gather_points, gather_tokens
from .inverse_distance import inverse_distance_weights


class Arguments(NamedTuple):
    """Checked arguments: int64 neighbors, the canvas as two integers, the power as a tensor (1,);
    positions, locations, attention and power in the precision of the sums."""

    values: Tensor
    positions: Tensor
    neighbors: Tensor
    canvas: tuple[int, int]
    locations: Tensor
    attention: Tensor
    power: Tensor


def _sum_of_samples(a: Arguments) -> Tensor:
    members = _neighbors_of_locations(a)  # (B, Q, M, L, P, k)
    valid, members = members >= 0, members.clamp(min=0)
    neighbors = gather_tokens(a.positions, members)
    weights = inverse_distance_weights(a.locations, neighbors, a.power, valid)
    # Heads of images as images, points of levels as points.
    members, weights, attention = (
        tensor.transpose(1, 2).flatten(0, 1).flatten(2, 3)
        for tensor in (members, weights, a.attention)
    )
    heads = a.values.to(weights.dtype).transpose(1, 2).flatten(0, 1)
    output = deformable_gather_points(members, weights, attention, heads)  # (B * M, Q, D)
    output = output.unflatten(0, (a.values.shape[0], a.values.shape[2])).transpose(1, 2)
    return output.flatten(2).to(a.values.dtype)


def _neighbors_of_locations(a: Arguments) -> Tensor:
    batch, levels, cells, k = a.neighbors.shape
    height, width = a.canvas
    x, y = a.locations.detach().round().nan_to_num(nan=0.0).unbind(-1)
    cell = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    level = torch.arange(levels, device=cell.device)[:, None]
    return gather_tokens(a.neighbors.reshape(batch, levels * cells, k), level * cells + cell)


def _fake(a: Arguments) -> Tensor:
    batch, _, heads, channels = a.values.shape
    return a.values.new_empty(batch, a.locations.shape[1], heads * channels)


@operator(
    Arguments,
    reference=_sum_of_samples,
    fake=_fake,
    differentiable=("values", "locations", "attention", "power"),
    atomics=True,
)
def point_deform_attn(
    values: Tensor,
    positions: Tensor,
    neighbors: Tensor,
    canvas: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor | float,
) -> Arguments:
    """Interpolate every level at the given locations and sum the samples with the given weights.

    A location is rounded to the nearest cell of the canvas (half to even, clamped to the canvas);
    the sample is interpolated from the neighbors of this cell by
    :func:`~segcore.ops.inverse_distance_weights` of the location itself.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`point_deform_attn_reference`. Differentiable once in ``values``, ``locations``
    (the choice of neighbors is taken as constant), ``attention`` and ``power``; where a location
    coincides with a token, that token adds nothing to the gradients of location and power.

    Args:
        values: (B, N, M, D) features of the tokens of all L levels one after the other, M heads;
            float64, float32, float16 or bfloat16
        positions: (B, N, 2) of the tokens as (x, y), in cells of the canvas
        neighbors: (B, L, H * W, k) int64 or int32: tokens, from 0 to N - 1, near each cell of the
            canvas, row by row; -1 where a level has fewer than k
        canvas: (H, W), the same for all levels
        locations: (B, Q, M, L, P, 2) as (x, y) in cells of the canvas
        attention: (B, Q, M, L, P)
        power: of the squared distance, positive; a number or a tensor with one element

    All but values and neighbors is converted to float32, or to float64 if ``values`` is. Sums are
    accumulated in this precision.

    Returns:
        (B, Q, M * D) of the type of ``values``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, device or size
        RuntimeError: a neighbor is out of range (on a GPU it is left out instead)
    """
    floating = {
        "values": values,
        "positions": positions,
        "locations": locations,
        "attention": attention,
    }
    if isinstance(power, Tensor):
        floating["power"] = power
        if power.numel() != 1:
            raise ValueError(f"power: expected one element, got shape {tuple(power.shape)}")
    for name, tensor in floating.items():
        check_floating(name, tensor)
    check_indices("neighbors", neighbors)
    check_dims("values", values, ("B", "N", "M", "D"))
    check_dims("neighbors", neighbors, ("B", "L", "H * W", "k"))
    check_dims("locations", locations, ("B", "Q", "M", "L", "P", "2"))
    height, width = as_canvas_size(canvas)
    batch, tokens, heads, _ = values.shape
    levels, k = neighbors.shape[1], neighbors.shape[3]
    queries, points = locations.shape[1], locations.shape[4]
    check_shape("positions", positions, (batch, tokens, 2))
    check_shape("neighbors", neighbors, (batch, levels, height * width, k))
    check_shape("locations", locations, (batch, queries, heads, levels, points, 2))
    check_shape("attention", attention, (batch, queries, heads, levels, points))
    check_same_device(**floating, neighbors=neighbors)
    precision = accumulation_type(values)
    if not isinstance(power, Tensor):
        power = values.new_tensor([power], dtype=precision)
    return Arguments(
        values,
        positions.detach().to(precision),
        neighbors.long(),
        (height, width),
        locations.to(precision),
        attention.to(precision),
        power.to(precision).reshape(1),
    )


point_deform_attn_reference = point_deform_attn.reference
