"""Attention over clusters (AutoFocusFormer, Ziwen et al., CVPR 2023, section 3.2): every token
attends to the tokens of its nearest clusters and to a learned blank token, with a bias that depends
on where they are."""

import torch
from torch import Tensor

from ._checks import (
    accumulation_type,
    check_dims,
    check_floating,
    check_same_device,
    check_shape,
)
from ._library import is_compiled, refuse_second_derivative, register_operator
from .cluster_neighbourhood import ClusterNeighbourhood
from .gather_reference import gather_tokens, neighbourhood_av, neighbourhood_qk
from .inverse_distance import offset_features

NUM_FEATURES = 5
"""(dx, dy, d, sin, cos) of a member seen from a token."""


def cluster_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    neighbourhood: ClusterNeighbourhood,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
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
        neighbourhood: clusters that the tokens see; :meth:`ClusterNeighbourhood.of_all` for global
            attention
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
    tensors = (q, k, v, positions, pos_weight, pos_bias, blank_k, blank_v)
    if not is_compiled("cluster_attention", q.device.type if isinstance(q, Tensor) else "cpu"):
        return cluster_attention_reference(
            q, k, v, positions, neighbourhood, pos_weight, pos_bias, blank_k, blank_v, scale=scale
        )
    _check(q, k, v, positions, neighbourhood, pos_weight, pos_bias, blank_k, blank_v)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    users, borders = neighbourhood.users() if needs_grad else (None, None)
    precision = accumulation_type(q)
    return torch.ops.segcore.cluster_attention(
        q,
        k,
        v,
        positions.detach().to(precision),
        neighbourhood.clusters,
        neighbourhood.cluster_size,
        *(tensor.to(precision) for tensor in (pos_weight, pos_bias, blank_k, blank_v)),
        _scale(q, scale),
        users,
        borders,
    )


def cluster_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    neighbourhood: ClusterNeighbourhood,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """The same as :func:`cluster_attention` in plain PyTorch: the specification of the kernels."""
    _check(q, k, v, positions, neighbourhood, pos_weight, pos_bias, blank_k, blank_v)
    return neighbourhood_attention_reference(
        q, k, v, positions, *neighbourhood.members(), pos_weight, pos_bias, blank_k, blank_v,
        scale=scale,
    )  # fmt: skip


def neighbourhood_attention_reference(
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
    """:func:`cluster_attention` over arbitrary lists of members, by the official operators.

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
    logits = neighbourhood_qk(query, key, members)
    logits = logits + (features @ weight.T + bias).permute(0, 3, 1, 2)
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.inf)
    blank_logit = (query * blank_key).sum(-1, keepdim=True)
    attention = torch.cat([logits, blank_logit], dim=-1).softmax(-1)
    output = neighbourhood_av(attention[..., :-1], value, members)
    output = output + attention[..., -1:] * blank_value
    return output.transpose(1, 2).flatten(2).to(q.dtype)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    neighbourhood: ClusterNeighbourhood,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
) -> None:
    if not isinstance(neighbourhood, ClusterNeighbourhood):
        raise TypeError(
            f"neighbourhood: expected a ClusterNeighbourhood, got {type(neighbourhood).__name__}"
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
    check_shape("pos_weight", pos_weight, (heads, NUM_FEATURES))
    check_shape("pos_bias", pos_bias, (heads,))
    check_shape("blank_k", blank_k, (heads * channels,))
    check_shape("blank_v", blank_v, (heads * channels,))
    clusters = neighbourhood.clusters
    if tuple(clusters.shape[:2]) != (batch, tokens):
        raise ValueError(
            f"neighbourhood: expected clusters of shape ({batch}, {tokens}, R), "
            f"got {tuple(clusters.shape)}"
        )
    check_same_device(**tensors, neighbourhood=clusters)


def _scale(q: Tensor, scale: float | None) -> float:
    return max(q.shape[-1], 1) ** -0.5 if scale is None else scale


def _fake(q: Tensor, *others) -> Tensor:
    batch, tokens, heads, channels = q.shape
    return q.new_empty(batch, tokens, heads * channels)


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.cluster_size = inputs[:6]
    *parameters, ctx.scale, users, borders = inputs[6:]
    ctx.save_for_backward(*tensors, *parameters, users, borders)


def _backward(ctx, grad_output: Tensor):
    *tensors, users, borders = ctx.saved_tensors
    grad_q, grad_k, grad_v, *grads = torch.ops.segcore.cluster_attention_backward(
        grad_output, *tensors[:5], ctx.cluster_size, *tensors[5:], ctx.scale, users, borders
    )
    return grad_q, grad_k, grad_v, None, None, None, *grads, None, None, None


def _fake_backward(grad_output: Tensor, q: Tensor, k: Tensor, v: Tensor, *others):
    parameters = others[3:7]
    return tuple(tensor.new_empty(tensor.shape) for tensor in (q, k, v, *parameters))


register_operator(
    "cluster_attention", fake=_fake, setup_context=_save_for_backward, backward=_backward
)
register_operator(
    "cluster_attention_backward",
    fake=_fake_backward,
    backward=refuse_second_derivative("cluster_attention"),
)
