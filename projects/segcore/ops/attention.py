"""Attention of queries to keys (Vaswani et al., NeurIPS 2017, section 3.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dims, check_floating, check_same_device, check_same_type, check_shape
from ._operator import operator


class Arguments(NamedTuple):
    """Checked arguments."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    heads: int
    scale: float


def _attend(a: Arguments) -> Tensor:
    query, key, value = (
        tokens.unflatten(2, (a.heads, tokens.shape[2] // a.heads)).transpose(1, 2)
        for tokens in (a.query, a.key, a.value)
    )
    mask = None if a.mask is None else a.mask[:, None]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=a.scale)
    return attended.transpose(1, 2).flatten(2)


def _fake(a: Arguments) -> Tensor:
    return a.query.new_empty(a.query.shape)


@operator(Arguments, reference=_attend, fake=_fake, cpu_only=True, for_inference=True)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Arguments:
    """Attend from queries to keys, all heads at once, as the linear layers give them.

    ``softmax(scale * <q_i, k_j>)`` over the keys j that query i sees, times ``value``; zeros for a
    query that sees none.

    The compiled kernel runs on CPUs where no gradient is needed (``python -m segcore.doctor``),
    otherwise :func:`attention_reference`, which is PyTorch's ``scaled_dot_product_attention``.

    Args:
        query: (B, Q, h * c), h heads of c channels; float64, float32, float16 or bfloat16. The
            channels of a row must lie side by side, or it is copied; so for key and value.
        key: (B, S, h * c) of the type of ``query``
        value: (B, S, h * c) of the type of ``query``
        heads: h
        mask: bool (B or 1, Q, S), True: query i sees key j, in all heads; None: every query sees
            every key
        scale: of the products; c ** -0.5 if None

    Returns:
        (B, Q, h * c) of the type of ``query``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
    """
    tensors = {"query": query, "key": key, "value": value}
    for name, tensor in tensors.items():
        check_floating(name, tensor)
    check_same_type(half_types=True, **tensors)
    check_dims("query", query, ("B", "Q", "h * c"))
    check_dims("key", key, ("B", "S", "h * c"))
    batch, queries, dim = query.shape
    keys = key.shape[1]
    if heads < 1 or dim % heads:
        raise ValueError(f"query: expected h * c numbers a row, got {dim} for {heads} heads")
    check_shape("key", key, (batch, keys, dim))
    check_shape("value", value, (batch, keys, dim))
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask: expected a bool tensor, got {given}")
        check_dims("mask", mask, ("B", "Q", "S"))
        if mask.shape[0] == 1:
            mask = mask.expand(batch, -1, -1)
        check_shape("mask", mask, (batch, queries, keys))
        tensors["mask"] = mask
    check_same_device(**tensors)
    if scale is None:
        scale = max(dim // heads, 1) ** -0.5
    return Arguments(query, key, value, mask, heads, scale)


attention_reference = attention.reference
