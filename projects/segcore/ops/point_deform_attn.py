"""Deformable attention over scattered tokens (AutoFocusFormer, Ziwen et al., CVPR 2023): a query
samples a few points of the plane, each interpolated from the tokens near it."""

from collections.abc import Sequence

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
from ._library import is_compiled, refuse_second_derivative, register_operator
from .gather_reference import deformable_gather_points, gather_tokens
from .inverse_distance import inverse_distance_weights


def point_deform_attn(
    values: Tensor,
    positions: Tensor,
    neighbours: Tensor,
    canvas: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor | float,
) -> Tensor:
    """Interpolate every level at the given locations and sum the samples with the given weights.

    A location is rounded to the nearest cell of the canvas (half to even, clamped to the canvas);
    the sample is interpolated from the neighbours of this cell by
    :func:`~segcore.ops.inverse_distance_weights` of the location itself.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`point_deform_attn_reference`. Differentiable once in ``values``, ``locations``
    (the choice of neighbours is taken as constant), ``attention`` and ``power``; where a location
    coincides with a token, that token adds nothing to the gradients of location and power.

    Args:
        values: (B, N, M, D) features of the tokens of all L levels one after the other, M heads;
            float64, float32, float16 or bfloat16
        positions: (B, N, 2) of the tokens as (x, y), in cells of the canvas
        neighbours: (B, L, H * W, k) int64 or int32: tokens, from 0 to N - 1, near each cell of the
            canvas, row by row; -1 where a level has fewer than k
        canvas: (H, W), the same for all levels
        locations: (B, Q, M, L, P, 2) as (x, y) in cells of the canvas
        attention: (B, Q, M, L, P)
        power: of the squared distance, positive; a number or a tensor with one element

    All but values and neighbours is converted to float32, or to float64 if ``values`` is. Sums are
    accumulated in this precision.

    Returns:
        (B, Q, M * D) of the type of ``values``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, device or size
        RuntimeError: a neighbour is out of range (on a GPU it is left out instead)
    """
    arguments = _prepare(values, positions, neighbours, canvas, locations, attention, power)
    if not is_compiled("point_deform_attn", values.device.type):
        return _sum_of_samples(*arguments)
    return torch.ops.segcore.point_deform_attn(*arguments)


def point_deform_attn_reference(
    values: Tensor,
    positions: Tensor,
    neighbours: Tensor,
    canvas: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor | float,
) -> Tensor:
    """The same as :func:`point_deform_attn` in plain PyTorch: the specification of the kernels."""
    return _sum_of_samples(
        *_prepare(values, positions, neighbours, canvas, locations, attention, power)
    )


def _sum_of_samples(
    values: Tensor,
    positions: Tensor,
    neighbours: Tensor,
    canvas: tuple[int, int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor,
) -> Tensor:
    members = _neighbours_of_locations(neighbours, canvas, locations)  # (B, Q, M, L, P, k)
    valid, members = members >= 0, members.clamp(min=0)
    weights = inverse_distance_weights(locations, gather_tokens(positions, members), power, valid)
    # Heads of images as images, points of levels as points.
    members, weights, attention = (
        tensor.transpose(1, 2).flatten(0, 1).flatten(2, 3)
        for tensor in (members, weights, attention)
    )
    heads = values.to(weights.dtype).transpose(1, 2).flatten(0, 1)
    output = deformable_gather_points(members, weights, attention, heads)  # (B * M, Q, D)
    output = output.unflatten(0, (values.shape[0], values.shape[2])).transpose(1, 2)
    return output.flatten(2).to(values.dtype)


def _neighbours_of_locations(
    neighbours: Tensor, canvas: tuple[int, int], locations: Tensor
) -> Tensor:
    batch, levels, cells, k = neighbours.shape
    height, width = canvas
    x, y = locations.detach().round().nan_to_num(nan=0.0).unbind(-1)
    cell = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    level = torch.arange(levels, device=cell.device)[:, None]
    return gather_tokens(neighbours.reshape(batch, levels * cells, k), level * cells + cell)


def _prepare(
    values: Tensor,
    positions: Tensor,
    neighbours: Tensor,
    canvas: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], Tensor, Tensor, Tensor]:
    """Check the arguments; int64 neighbours, the canvas as integers, the power as a tensor (1,),
    all other numbers in the precision of the sums."""
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
    check_indices("neighbours", neighbours)
    check_dims("values", values, ("B", "N", "M", "D"))
    check_dims("neighbours", neighbours, ("B", "L", "H * W", "k"))
    check_dims("locations", locations, ("B", "Q", "M", "L", "P", "2"))
    height, width = as_canvas_size(canvas)
    batch, tokens, heads, _ = values.shape
    levels, k = neighbours.shape[1], neighbours.shape[3]
    queries, points = locations.shape[1], locations.shape[4]
    check_shape("positions", positions, (batch, tokens, 2))
    check_shape("neighbours", neighbours, (batch, levels, height * width, k))
    check_shape("locations", locations, (batch, queries, heads, levels, points, 2))
    check_shape("attention", attention, (batch, queries, heads, levels, points))
    check_same_device(**floating, neighbours=neighbours)
    precision = accumulation_type(values)
    if not isinstance(power, Tensor):
        power = values.new_tensor([power], dtype=precision)
    return (
        values,
        positions.detach().to(precision),
        neighbours.long(),
        (height, width),
        locations.to(precision),
        attention.to(precision),
        power.to(precision).reshape(1),
    )


def _fake(
    values: Tensor,
    positions: Tensor,
    neighbours: Tensor,
    canvas: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    power: Tensor,
) -> Tensor:
    batch, _, heads, channels = values.shape
    return values.new_empty(batch, locations.shape[1], heads * channels)


def _save_for_backward(ctx, inputs, output) -> None:
    values, positions, neighbours, ctx.canvas, *others = inputs
    ctx.save_for_backward(values, positions, neighbours, *others)


def _backward(ctx, grad_output: Tensor):
    values, positions, neighbours, *others = ctx.saved_tensors
    grad_values, *grads = torch.ops.segcore.point_deform_attn_backward(
        grad_output, values, positions, neighbours, ctx.canvas, *others
    )
    return grad_values, None, None, None, *grads


def _fake_backward(grad_output: Tensor, values: Tensor, *others) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (values, *others[-3:]))


register_operator(
    "point_deform_attn",
    fake=_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)
register_operator(
    "point_deform_attn_backward",
    fake=_fake_backward,
    backward=refuse_second_derivative("point_deform_attn"),
)
