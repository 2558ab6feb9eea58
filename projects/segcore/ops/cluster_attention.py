"""Attention over clusters (AutoFocusFormer, Ziwen et al., CVPR 2023, section 3.2): every token
attends to the tokens of its nearest clusters and to a learned blank token, with a bias that depends
on their relative positions."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    accumulation_type,
    check_dims,
    check_floating,
    check_same_device,
    check_shape,
)
from ._operator import operator
from .cluster_neighborhood import ClusterNeighborhood
from .gather_reference import gather_tokens, neighborhood_av, neighborhood_qk
from .offset_features import NUM_OFFSET_FEATURES, offset_features


class Arguments(NamedTuple):
    """Checked arguments: positions and parameters in the precision of the sums; indices and offsets
    of the inverse lists where there is a gradient."""

    q: Tensor
    k: Tensor
    v: Tensor
    positions: Tensor
    clusters: Tensor
    cluster_size: int
    pos_weight: Tensor
    pos_bias: Tensor
    blank_k: Tensor
    blank_v: Tensor
    scale: float
    indices: Tensor | None
    offsets: Tensor | None


def _attend(a: Arguments) -> Tensor:
    members, valid = ClusterNeighborhood(a.clusters, a.cluster_size).members()
    return neighborhood_attention_reference(
        a.q, a.k, a.v, a.positions, members, valid, a.pos_weight, a.pos_bias, a.blank_k, a.blank_v,
        scale=a.scale,
    )  # fmt: skip


def neighborhood_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    members: Tensor,
    valid: Tensor | None,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`cluster_attention` over arbitrary lists of members by the official operators.

    Args:
        members: (B, N, m) int64 tokens that every token sees
        valid: (B, N, m) bool, False for members that are to be left out, or None
        others: as for :func:`cluster_attention`
    """
    heads, channels = q.shape[2:]
    precision = accumulation_type(q)
    scale = _scale(q, scale)
    query, key, value = (tensor.to(precision).transpose(1, 2) for tensor in (q, k, v))
    weight, bias = pos_weight.to(precision), pos_bias.to(precision)
    blank_key, blank_value = (
        blank.to(precision).view(heads, 1, channels) for blank in (blank_k, blank_v)
    )
    query = query * scale
    positions = positions.detach().to(precision)
    features = offset_features(gather_tokens(positions, members) - positions[:, :, None])
    logits = neighborhood_qk(query, key, members)
    logits = logits + (features @ weight.T + bias).permute(0, 3, 1, 2)
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.inf)
    blank_logit = (query * blank_key).sum(-1, keepdim=True)
    attention = torch.cat([logits, blank_logit], dim=-1).softmax(-1)
    output = neighborhood_av(attention[..., :-1], value, members)
    output = output + attention[..., -1:] * blank_value
    return output.transpose(1, 2).flatten(2).to(q.dtype)


def _scale(q: Tensor, scale: float | None) -> float:
    return max(q.shape[-1], 1) ** -0.5 if scale is None else scale


def _fake(a: Arguments) -> Tensor:
    batch, tokens, heads, channels = a.q.shape
    return a.q.new_empty(batch, tokens, heads * channels)


@operator(
    Arguments,
    reference=_attend,
    fake=_fake,
    differentiable=("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v"),
)
def cluster_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    neighborhood: ClusterNeighborhood,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
    *,
    scale: float | None = None,
) -> Arguments:
    """Attend to the members of each token's clusters and to the blank token, all heads at once.

    For token ``i``, member ``j`` and head ``a``, with ``(dx, dy)`` the position of ``j`` minus that
    of ``i`` and ``d`` its length::

        logit(i, j)     = scale * <q_i, k_j> + <pos_weight_a, (dx, dy, d, dy/d, dx/d)> + pos_bias_a
        logit(i, blank) = scale * <q_i, blank_k>
        output_i        = softmax(logit) applied to v_j and blank_v

    where dy/d and dx/d are 0 at d = 0. Empty slots of the last cluster do not take part.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`cluster_attention_reference`. Differentiable once in everything but the
    positions, which are taken as constants. Under autocast the types of the arguments decide.

    Args:
        q, k, v: (B, N, h, c) queries, keys and values of N tokens in the order of their clusters, h
            heads of c channels; float64, float32, float16 or bfloat16, all three the same
        positions: (B, N, 2) as (x, y), in any unit
        neighborhood: clusters that the tokens see; for global attention from
            :meth:`ClusterNeighborhood.global_attention`
        pos_weight: (h, 5)
        pos_bias: (h,)
        blank_k, blank_v: (h * c,) head by head
        scale: of the products; c ** -0.5 if None

    Positions and parameters are converted to float32, or to float64 if ``q`` is. Sums are
    accumulated in this precision.

    Returns:
        (B, N, h * c) of the type of ``q``

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or device
    """
    if not isinstance(neighborhood, ClusterNeighborhood):
        raise TypeError(
            f"neighborhood: expected a ClusterNeighborhood, got {type(neighborhood).__name__}"
        )
    tensors = {
        "q": q,
        "k": k,
        "v": v,
        "positions": positions,
        "pos_weight": pos_weight,
        "pos_bias": pos_bias,
        "blank_k": blank_k,
        "blank_v": blank_v,
    }
    for name, tensor in tensors.items():
        check_floating(name, tensor)
    check_dims("q", q, ("B", "N", "h", "c"))
    batch, tokens, heads, channels = q.shape
    for name in ("k", "v"):
        check_shape(name, tensors[name], q.shape)
        if tensors[name].dtype != q.dtype:
            raise TypeError(f"{name}: expected the type of q, {q.dtype}, got {tensors[name].dtype}")
    check_shape("positions", positions, (batch, tokens, 2))
    check_shape("pos_weight", pos_weight, (heads, NUM_OFFSET_FEATURES))
    check_shape("pos_bias", pos_bias, (heads,))
    check_shape("blank_k", blank_k, (heads * channels,))
    check_shape("blank_v", blank_v, (heads * channels,))
    clusters = neighborhood.clusters
    if tuple(clusters.shape[:2]) != (batch, tokens):
        raise ValueError(
            f"neighborhood: expected clusters of shape ({batch}, {tokens}, R), "
            f"got {tuple(clusters.shape)}"
        )
    check_same_device(**tensors, neighborhood=clusters)
    parameters = (pos_weight, pos_bias, blank_k, blank_v)
    needs_grad = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (q, k, v, *parameters)
    )
    precision = accumulation_type(q)
    return Arguments(
        q,
        k,
        v,
        positions.detach().to(precision),
        clusters,
        neighborhood.cluster_size,
        *(parameter.to(precision) for parameter in parameters),
        _scale(q, scale),
        *(neighborhood.inverse_lists() if needs_grad else (None, None)),
    )


cluster_attention_reference = cluster_attention.reference
