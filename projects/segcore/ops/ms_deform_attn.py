"""Multi-scale deformable attention (Deformable DETR, Zhu et al., 2021, equation 3): every query
samples a few points of every level of a feature pyramid and sums them with its weights."""

from collections.abc import Sequence
from typing import NamedTuple

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
from ._operator import operator


class Arguments(NamedTuple):
    """Checked arguments: (H_1, W_1, H_2, W_2, ...), locations and weights in the precision of the
    sums."""

    value: Tensor
    spatial_shapes: Sequence[int]
    sampling_locations: Tensor
    attention_weights: Tensor


def _sum_of_samples(a: Arguments) -> Tensor:
    batch, _, heads, channels = a.value.shape
    locations, queries = a.sampling_locations, a.sampling_locations.shape[1]
    shapes = as_pairs(a.spatial_shapes)
    # Farther than one map away is as good as anywhere outside; grid_sample takes NaN for an edge.
    grid = 2 * locations.nan_to_num(nan=-1.0).clamp(-1, 2) - 1
    grid = grid.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (N*M, L, Q, P, 2)
    weights = a.attention_weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # (N*M, L, Q, P)
    levels = a.value.to(locations.dtype).split([height * width for height, width in shapes], dim=1)
    output = locations.new_zeros(batch * heads, channels, queries)
    for i, (shape, level) in enumerate(zip(shapes, levels, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
        samples = F.grid_sample(maps, grid[:, i], align_corners=False)  # (N*M, D, Q, P)
        output = output + (samples * weights[:, i, None]).sum(-1)
    output = output.view(batch, heads * channels, queries).transpose(1, 2)
    return output.to(a.value.dtype)


def as_pairs(sides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (H, W) of each level of (H_1, W_1, H_2, W_2, ...)."""
    return list(zip(sides[::2], sides[1::2], strict=True))


def empty_output(value: Tensor, num_queries: int) -> Tensor:
    """Return an empty tensor (N, Q, M * D) for Q queries and values (N, S, M, D)."""
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, num_queries, heads * channels)


@operator(
    Arguments,
    reference=_sum_of_samples,
    fake=lambda a: empty_output(a.value, a.sampling_locations.shape[1]),
    differentiable=("value", "sampling_locations", "attention_weights"),
    atomics=True,
)
def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Arguments:
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
    return Arguments(
        value,
        [side for size in sizes for side in size],
        sampling_locations.to(precision),
        attention_weights.to(precision),
    )


ms_deform_attn_reference = ms_deform_attn.reference
