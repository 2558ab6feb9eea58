"""Attention within windows of a map (Swin Transformer, Liu et al., ICCV 2021, section 3.2)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ._checks import (
    accumulation_type,
    check_dims,
    check_floating,
    check_same_device,
    check_shape,
)
from ._operator import operator
from .windows import shift_mask, window_merge, window_partition


class Arguments(NamedTuple):
    """Checked arguments: the bias in the precision of the sums."""

    qkv: Tensor
    padding: Tensor
    bias: Tensor
    window: int
    row_shift: int
    column_shift: int
    scale: float


def _attend(a: Arguments) -> Tensor:
    batch, height, width, dim = a.qkv.shape
    heads = len(a.bias)
    rows, columns = -(-height // a.window), -(-width // a.window)
    size = (rows * a.window, columns * a.window)
    padded = a.padding.expand(batch, *size, -1).clone()
    padded[:, :height, :width] = a.qkv
    windows = window_partition(padded.roll((-a.row_shift, -a.column_shift), (1, 2)), a.window)
    windows = windows.to(a.bias.dtype).unflatten(2, (3, heads, dim // (3 * heads)))
    bias = a.bias[None]
    shift = (a.row_shift, a.column_shift)
    if any(shift):
        mask = shift_mask(*size, a.window, shift, like=a.bias)
        bias = (bias + mask[:, None]).repeat(batch, 1, 1, 1)
    query, key, value = windows.permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=a.scale)
    attended = attended.transpose(1, 2).flatten(2).to(a.qkv.dtype)
    attended = window_merge(attended, a.window, *size).roll(shift, (1, 2))
    return attended[:, :height, :width].contiguous()


def _fake(a: Arguments) -> Tensor:
    return a.qkv.new_empty(*a.qkv.shape[:3], a.qkv.shape[3] // 3)


@operator(Arguments, reference=_attend, fake=_fake, cpu_only=True, for_inference=True)
def window_attention(
    qkv: Tensor,
    padding: Tensor,
    bias: Tensor,
    window: int,
    shift: tuple[int, int] = (0, 0),
    *,
    scale: float | None = None,
) -> Arguments:
    """Attend within windows of a map, all heads at once, without a copy of the windows.

    The map is padded at the bottom and right to whole windows, whose added cells take part as keys,
    and its rows and columns are rolled by ``-shift``; cells that only the roll made neighbors have
    100 less in their logits.
    A logit is ``scale * <q_i, k_j> + bias[head, i, j]``.

    The compiled kernel runs on CPUs where no gradient is needed (``python -m segcore.doctor``),
    otherwise :func:`window_attention_reference`.

    Args:
        qkv: (B, H, W, 3 * h * c) queries, keys and values, each h heads of c channels; float64,
            float32, float16 or bfloat16
        padding: (3 * h * c,) those of added cells, of the type of ``qkv``
        bias: (h, window^2, window^2), row i, column j for cells i and j of a window, row by row;
            converted to float32, or to float64 if ``qkv`` is. Sums are accumulated in this
            precision.
        window: cells along a side
        shift: of rows and of columns, each from 0 to ``window - 1``
        scale: of the products; c ** -0.5 if None

    Returns:
        (B, H, W, h * c) of the type of ``qkv``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
    """
    tensors = {"qkv": qkv, "padding": padding, "bias": bias}
    for name, tensor in tensors.items():
        check_floating(name, tensor)
    check_dims("qkv", qkv, ("B", "H", "W", "3 * h * c"))
    check_dims("bias", bias, ("h", "window^2", "window^2"))
    if 0 in qkv.shape[1:3]:
        raise ValueError(f"qkv: expected sides of at least 1, got {tuple(qkv.shape)}")
    if window < 1:
        raise ValueError(f"window: expected at least 1, got {window}")
    if len(shift) != 2 or not all(0 <= cells < window for cells in shift):
        raise ValueError(f"shift: expected two numbers from 0 to {window - 1}, got {shift}")
    heads, dim = bias.shape[0], qkv.shape[3]
    if heads < 1 or dim % (3 * heads):
        raise ValueError(f"qkv: expected 3 * h * c numbers a cell, got {dim} for {heads} heads")
    check_shape("padding", padding, (dim,))
    if padding.dtype != qkv.dtype:
        raise TypeError(f"padding: expected the type of qkv, {qkv.dtype}, got {padding.dtype}")
    check_shape("bias", bias, (heads, window**2, window**2))
    check_same_device(**tensors)
    if scale is None:
        scale = max(dim // (3 * heads), 1) ** -0.5
    return Arguments(qkv, padding, bias.to(accumulation_type(qkv)), window, *shift, scale)


window_attention_reference = window_attention.reference
