"""Multiply-adds of operators, as fvcore counts them, and of ours.

A multiply-add counts once, bias and activation do not count. Norms are counted as fvcore does,
whose documentation calls 5 operations an element a rough estimate.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from segcore.ops.offset_features import NUM_OFFSET_FEATURES

aten = torch.ops.aten
segcore = torch.ops.segcore

# Arguments and result of an operator -> multiply-adds.
Formula = Callable[[tuple, Any], int]


def _by_torch(operator: Any) -> Formula:
    """Half of what PyTorch counts, which is multiplications and additions."""
    count = flop_registry[operator]
    return lambda args, result: count(*args, out_val=result) // 2


def _attention(args: tuple, result: Any) -> int:
    """Products of queries (B, M, Q, D) with keys (B, M, K, D), and with values (B, M, K, E)."""
    query, key, value = args[:3]
    return prod(query.shape[:3]) * key.shape[2] * (query.shape[3] + value.shape[3])


def _norm(affine: int) -> Formula:
    """5 an element, or 4 without scale and shift; ``affine`` is the position of the scale."""
    return lambda args, result: args[0].numel() * (4 if args[affine] is None else 5)


def _batch_norm(args: tuple, result: Any) -> int:
    training = args[5]
    scale, plain = (5, 4) if training else (2, 1)
    return args[0].numel() * (plain if args[1] is None else scale)


def _of_result(factor: int) -> Formula:
    return lambda args, result: factor * result.numel()


def _deformable_sampling(args: tuple, result: Tensor) -> int:
    """8 a point and channel: interpolation between four corners, and the weighted sum.

    The last argument, weights or their logits, is (B, Q, M, L, P), values are (B, N, M, D).
    """
    return 8 * args[-1].numel() * args[0].shape[3]


def _cluster_attention(args: tuple, result: Tensor) -> int:
    """Products with keys and values, and the position bias of a linear layer, of each member.

    Queries are (B, N, M, D), clusters (B, N, K), of ``cluster_size`` members each.
    """
    query, clusters, size = args[0], args[4], args[5]
    batch, tokens, heads, channels = query.shape
    members = batch * tokens * clusters.shape[2] * size
    return members * heads * (2 * channels + NUM_OFFSET_FEATURES)


def _point_gather(args: tuple, result: Tensor) -> int:
    features, _, weights = args
    return weights.numel() * features.shape[2]


def _neighborhood_merge(args: tuple, result: Tensor) -> int:
    """Weights of each member by a linear layer and a norm, and the weighted sums."""
    features, members, linear = args[0], args[3], args[6]
    weights = linear.shape[0]
    return members.numel() * weights * (linear.shape[1] + 5 + features.shape[2])


def _point_deform_attn(args: tuple, result: Tensor) -> int:
    """Interpolation between k neighbors, and the weighted sum, of each point and channel.

    Locations are (B, Q, M, L, P, 2), values (B, N, M, D), neighbors (B, L, cells, k).
    """
    values, _, neighbors, _, locations = args[:5]
    return prod(locations.shape[:-1]) * values.shape[3] * (neighbors.shape[3] + 1)


def _window_attention(args: tuple, result: Tensor) -> int:
    """Products of the cells of a map, padded to whole windows, with those of their window."""
    batch, height, width, dim = result.shape
    window = args[3]
    windows = batch * -(-height // window) * -(-width // window)
    return 2 * windows * window**4 * dim


def _attention_of_rows(args: tuple, result: Tensor) -> int:
    """Products of queries (B, Q, C) with keys (B, K, C), and with as many values."""
    return 2 * result.numel() * args[1].shape[1]


PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
ATTENTION = (
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
)
# Operator of ours -> its name in tables, and its formula.
OURS: dict[str, tuple[str, Formula]] = {
    "ms_deform_attn": ("ms_deform_attn", _deformable_sampling),
    "ms_deform_attn_with_logits": ("ms_deform_attn", _deformable_sampling),
    "cluster_attention": ("cluster_attention", _cluster_attention),
    "point_gather": ("point_gather", _point_gather),
    "neighborhood_merge": ("neighborhood_merge", _neighborhood_merge),
    "point_deform_attn": ("point_deform_attn", _point_deform_attn),
    "attention": ("attention", _attention_of_rows),
    "window_attention": ("window_attention", _window_attention),
}
# Operator -> the same.
FORMULAS: dict[Any, tuple[str, Formula]] = {
    **{operator: ("matrix product", _by_torch(operator)) for operator in PRODUCTS},
    **{operator: ("attention", _attention) for operator in ATTENTION},
    aten.convolution: ("convolution", _by_torch(aten.convolution)),
    aten.native_layer_norm: ("layer norm", _norm(2)),
    aten.native_group_norm: ("group norm", _norm(1)),
    aten.native_batch_norm: ("batch norm", _batch_norm),
    aten.upsample_nearest2d: ("interpolation", _of_result(1)),
    aten.upsample_bilinear2d: ("interpolation", _of_result(4)),
    aten.grid_sampler_2d: ("grid sampling", _of_result(4)),
    aten._adaptive_avg_pool2d: ("average pooling", lambda args, result: args[0].numel()),
    # Those of an older library, or none, are missing: their PyTorch twins are counted then.
    **{getattr(segcore, name): OURS[name] for name in OURS if hasattr(segcore, name)},
}
UNKNOWN_TO_FVCORE = {"attention", *(name for name, _ in OURS.values())}
# Whose results count as activations, as in fvcore (Radosavovic et al., 2020, section 3.1).
ACTIVATIONS = {*PRODUCTS, aten.convolution}
