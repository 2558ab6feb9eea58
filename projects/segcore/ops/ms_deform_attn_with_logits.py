"""Multi-scale deformable attention from what a query's linear layers give (Deformable DETR, Zhu et
al., 2021, equation 3): logits of the weights, and offsets around reference points or boxes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
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
from .ms_deform_attn import as_pairs, empty_output, ms_deform_attn, ms_deform_attn_reference


class Arguments(NamedTuple):
    """Checked arguments: (H_1, W_1, H_2, W_2, ...), reference points in the precision of the sums,
    offsets and logits both in this precision or both in the type of ``value``."""

    value: Tensor
    spatial_shapes: Sequence[int]
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor


def _composed(attention: Callable[..., Tensor], a: Arguments) -> Tensor:
    reference = a.reference_points[:, :, None, :, None]
    offsets = a.sampling_offsets.to(reference.dtype)
    shapes = as_pairs(a.spatial_shapes)
    if reference.shape[-1] == 4:
        displacement = offsets / offsets.shape[4] * reference[..., 2:] * 0.5
    else:
        displacement = offsets / _columns_and_rows(shapes, like=offsets)[:, None]
    logits = a.attention_logits.to(reference.dtype)
    weights = logits.flatten(-2).softmax(-1).view(logits.shape)
    return attention(a.value, shapes, reference[..., :2] + displacement, weights)


def _columns_and_rows(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return (W, H) of each level, (L, 2).

    Made on the device, of sizes that may be symbolic: no copy from the host, and nothing that
    ``torch.export`` would take for a constant.
    """
    sides = [side for height, width in shapes for side in (width, height)]
    filled = [torch.full((), side, dtype=like.dtype, device=like.device) for side in sides]
    return torch.stack(filled).view(-1, 2) if filled else like.new_empty(0, 2)


def _in_plain_pytorch(a: Arguments) -> Tensor:
    return _composed(ms_deform_attn_reference, a)


def _by_sampling_operator(a: Arguments) -> Tensor:
    return _composed(ms_deform_attn, a)


@operator(
    Arguments,
    reference=_in_plain_pytorch,
    fallback=("ms_deform_attn", _by_sampling_operator),
    fake=lambda a: empty_output(a.value, a.sampling_offsets.shape[1]),
    differentiable=("value", "reference_points", "sampling_offsets", "attention_logits"),
    atomics=True,
)
def ms_deform_attn_with_logits(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Arguments:
    """Sample every level around reference points and sum the samples with softmax weights.

    :func:`ms_deform_attn` with these arguments, which are computed where they are needed instead of
    being written to memory:

    - weights: the softmax of a head's logits over all levels and points;
    - locations around points: ``reference + offset / (W_l, H_l)``, offsets in cells;
    - locations around boxes: ``center + offset / P * (width, height) / 2``, so that an offset of P
      reaches the edge.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`ms_deform_attn` on locations and weights. Differentiable once in all tensors.
    Under autocast the types of the arguments decide, as always.

    Args:
        value: (N, S, M, D) features of N images, S cells of all levels one after the other (rows of
            a level adjoin), M heads; float64, float32, float16 or bfloat16
        spatial_shapes: (H, W) of the L levels, in cells, with sum(H * W) = S: integers or an int64
            tensor (L, 2) on the CPU (integers, where ``torch.compile`` is to see them)
        reference_points: (N, Q, L, 2) points (x, y), or (N, Q, L, 4) boxes (center x, center y,
            width, height), in units of the map
        sampling_offsets: (N, Q, M, L, P, 2) as (x, y)
        attention_logits: (N, Q, M, L, P)

    Reference points are converted to float32, or to float64 if ``value`` is, and so are offsets and
    logits, unless both have the type of ``value``: then they are read as they are. Softmax,
    locations and sums are computed in this precision.

    Returns:
        (N, Q, M * D) of the type of ``value``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
    """
    tensors = {
        "value": value,
        "reference_points": reference_points,
        "sampling_offsets": sampling_offsets,
        "attention_logits": attention_logits,
    }
    for name, tensor in tensors.items():
        check_floating(name, tensor)
    check_dims("value", value, ("N", "S", "M", "D"))
    check_dims("reference_points", reference_points, ("N", "Q", "L", "2 or 4"))
    check_dims("sampling_offsets", sampling_offsets, ("N", "Q", "M", "L", "P", "2"))
    batch, tokens, heads, _ = value.shape
    sizes = as_level_sizes(spatial_shapes, tokens)
    queries, points = sampling_offsets.shape[1], sampling_offsets.shape[4]
    coordinates = 4 if reference_points.shape[-1] == 4 else 2
    check_shape("reference_points", reference_points, (batch, queries, len(sizes), coordinates))
    expected = (batch, queries, heads, len(sizes), points)
    check_shape("sampling_offsets", sampling_offsets, (*expected, 2))
    check_shape("attention_logits", attention_logits, expected)
    check_same_device(**tensors)
    precision = accumulation_type(value)
    same_type = sampling_offsets.dtype == attention_logits.dtype == value.dtype
    type_of_query = value.dtype if same_type else precision
    return Arguments(
        value,
        [side for size in sizes for side in size],
        reference_points.to(precision),
        sampling_offsets.to(type_of_query),
        attention_logits.to(type_of_query),
    )


ms_deform_attn_with_logits_reference = ms_deform_attn_with_logits.reference
