"""Multi-scale deformable attention (Deformable DETR, Zhu et al., 2021, equation 3): every query
samples a few points of every level of a feature pyramid and sums them with its weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import (
    accumulation_type,
    as_level_sizes,
    check_dims,
    check_floating,
    check_same_device,
    check_shape,
)
from ._library import is_compiled, refuse_second_derivative, register_operator


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample every level at the given locations and sum the samples with the given weights.

    Level ``l`` is sampled bilinearly at cell ``(x * W_l - 0.5, y * H_l - 0.5)``, with zeros outside
    the map: a sample contributes only if it is less than one cell away from the map. Locations that
    are far outside, infinite or NaN contribute nothing and get no gradient.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`ms_deform_attn_reference`. Differentiable once in ``value``,
    ``sampling_locations`` and ``attention_weights``. Under autocast the types of the arguments
    decide, as always.

    Args:
        value: (N, S, M, D) features of N images, S cells of all levels one after the other (rows of
            a level adjoin), M heads; float64, float32, float16 or bfloat16
        spatial_shapes: (H, W) of the L levels, in cells, with sum(H * W) = S: integers or an int64
            tensor (L, 2) on the CPU (integers, where ``torch.compile`` is to see them)
        sampling_locations: (N, Q, M, L, P, 2) points as (x, y), [0, 1] is the map from edge to edge
        attention_weights: (N, Q, M, L, P)

    Locations and weights are converted to float32, or to float64 if ``value`` is. Sums are
    accumulated in this precision.

    Returns:
        (N, Q, M * D) of the type of ``value``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
    """
    sizes, locations, weights = _prepare(
        value, spatial_shapes, sampling_locations, attention_weights
    )
    if not is_compiled("ms_deform_attn", value.device.type):
        return _sum_of_samples(value, sizes, locations, weights)
    flat = [side for size in sizes for side in size]
    return torch.ops.segcore.ms_deform_attn(value, flat, locations, weights)


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The same as :func:`ms_deform_attn` in plain PyTorch: the specification of the kernels."""
    return _sum_of_samples(
        value, *_prepare(value, spatial_shapes, sampling_locations, attention_weights)
    )


def _prepare(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Check the arguments; level sizes as integers, locations and weights in the precision of the
    sums."""
    check_floating("value", value)
    check_floating("sampling_locations", sampling_locations)
    check_floating("attention_weights", attention_weights)
    check_dims("value", value, ("N", "S", "M", "D"))
    check_dims("sampling_locations", sampling_locations, ("N", "Q", "M", "L", "P", "2"))
    batch, tokens, heads, _ = value.shape
    sizes = as_level_sizes(spatial_shapes, tokens)
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    expected = (batch, queries, heads, len(sizes), points)
    check_shape("sampling_locations", sampling_locations, (*expected, 2))
    check_shape("attention_weights", attention_weights, expected)
    check_same_device(
        value=value, sampling_locations=sampling_locations, attention_weights=attention_weights
    )
    precision = accumulation_type(value)
    return sizes, sampling_locations.to(precision), attention_weights.to(precision)


def _sum_of_samples(
    value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    # Farther than one map away is as good as anywhere outside; grid_sample takes NaN for an edge.
    grid = 2 * locations.nan_to_num(nan=-1.0).clamp(-1, 2) - 1
    grid = grid.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (N*M, L, Q, P, 2)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # (N*M, L, Q, P)
    levels = value.to(locations.dtype).split([height * width for height, width in sizes], dim=1)
    output = locations.new_zeros(batch * heads, channels, queries)
    for i, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, *size)
        samples = F.grid_sample(maps, grid[:, i], align_corners=False)  # (N*M, D, Q, P)
        output = output + (samples * weights[:, i, None]).sum(-1)
    output = output.view(batch, heads * channels, queries).transpose(1, 2)
    return output.to(value.dtype)


def _fake(value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, locations.shape[1], heads * channels)


def _save_for_backward(ctx, inputs, output) -> None:
    value, ctx.spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx, grad_output: Tensor):
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = torch.ops.segcore.ms_deform_attn_backward(
        grad_output, value, ctx.spatial_shapes, locations, weights
    )
    return grad_value, None, grad_locations, grad_weights


def _fake_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))


register_operator(
    "ms_deform_attn", fake=_fake, setup_context=_save_for_backward, backward=_backward
)
register_operator(
    "ms_deform_attn_backward",
    fake=_fake_backward,
    backward=refuse_second_derivative("ms_deform_attn"),
)
