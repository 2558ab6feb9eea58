"""Attention over clusters in Triton.

A program works on one head and a tile of neighboring tokens, which see about the same clusters: it
goes once through the clusters that any of them sees, in ascending order, and reads keys and values
of each once for all. How often a token sees a cluster, mostly 0 or 1, is a factor of its weights.
Softmax is online, no logit is written, and nothing is summed by atomics: all sums have one order.

Rows are multiplied in the precision of the sums. For half types tensor cores do that: one product
in TF32 is exact for two rows; for weights, which are float32, and rows it takes three.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..cluster_attention import Arguments
from ..offset_features import NUM_OFFSET_FEATURES
from .launch import TYPES, index_type, launch, tile_extent

MIN_CHANNELS = 16  # of a tile, for products of matrices
MAX_ROW_BYTES = 1024  # of a head: tiles of whole rows fit into 99 KiB of shared memory
TILE_QUERIES = 16
TILE_KEYS = 16
CLUSTER_KEYS = 8  # of a program that goes through the queries of one cluster
FEATURES = tl.constexpr(NUM_OFFSET_FEATURES)


class Rows(NamedTuple):
    """A tensor (images, tokens, heads, channels) whose channels lie side by side."""

    tensor: Tensor
    image_stride: int
    token_stride: int
    head_stride: int


class Inputs(NamedTuple):
    """Tensors, all but rows contiguous, sizes and, in capitals, constants of the kernels."""

    q: Rows
    k: Rows
    v: Rows
    positions: Tensor  # (images, tokens, 2)
    clusters: Tensor  # (images, tokens, clusters_per_token)
    pos_weight: Tensor
    pos_bias: Tensor
    blank_k: Tensor
    blank_v: Tensor
    tokens: int
    heads: int
    channels: int
    clusters_per_token: int
    cluster_size: int
    num_clusters: int
    CHANNELS: Any  # of a tile
    QUERIES: Any
    KEYS: Any
    CLUSTERS: Any  # whole ones in a tile of keys, or 1
    SEEN: Any  # clusters of a token
    INDEX: Any
    SUM: Any
    PRODUCT: Any  # precision of products of rows
    WEIGHTING: Any  # and of weights with rows


@triton.jit
def _row_mask(a, exists):
    return exists[:, None] & (tl.arange(0, a.CHANNELS) < a.channels)[None, :]


@triton.jit
def _row_pointers(a, rows, image, token, head):
    start = image.to(tl.int64) * rows.image_stride + head.to(tl.int64) * rows.head_stride
    offsets = (token.to(a.INDEX) * rows.token_stride)[:, None] + tl.arange(0, a.CHANNELS)[None, :]
    return rows.tensor + start + offsets


@triton.jit
def _load_rows(a, rows, image, token, head, exists):
    """Return rows of tokens in the precision of the sums, 0 where there is none."""
    pointers = _row_pointers(a, rows, image, token, head)
    return tl.load(pointers, mask=_row_mask(a, exists), other=0).to(a.SUM)


@triton.jit
def _store_rows(a, rows, image, token, head, exists, values):
    pointers = _row_pointers(a, rows, image, token, head)
    tl.store(pointers, values.to(rows.tensor.dtype.element_ty), mask=_row_mask(a, exists))


@triton.jit
def _load_blank(a, blank, head):
    channel = tl.arange(0, a.CHANNELS)
    return tl.load(blank + head * a.channels + channel, mask=channel < a.channels, other=0)[None, :]


@triton.jit
def _load_positions(a, image, token, exists):
    pointers = a.positions + image.to(tl.int64) * a.tokens * 2 + token.to(a.INDEX) * 2
    return tl.load(pointers, mask=exists, other=0), tl.load(pointers + 1, mask=exists, other=0)


@triton.jit
def _load_bias(a, head):
    """Return the weights of the offset features and the bias of a head."""
    weight = a.pos_weight + head * FEATURES
    return (
        tl.load(weight), tl.load(weight + 1), tl.load(weight + 2), tl.load(weight + 3),
        tl.load(weight + 4), tl.load(a.pos_bias + head),
    )  # fmt: skip


@triton.jit
def _offset_features(query_position, key_position):
    """Return (dx, dy, d, dy/d, dx/d) of each query and key, see ops/offset_features.py."""
    x = key_position[0][None, :] - query_position[0][:, None]
    y = key_position[1][None, :] - query_position[1][:, None]
    distance = tl.sqrt(x * x + y * y)
    inverse = 1 / tl.where(distance > 0, distance, 1)
    return x, y, distance, y * inverse, x * inverse


@triton.jit
def _products(a, left, right):
    """Return the products of each row of the left with each of the right."""
    return tl.dot(left, tl.trans(right), input_precision=a.PRODUCT, out_dtype=a.SUM)


@triton.jit
def _weighted_sums(a, weights, rows):
    return tl.dot(weights, rows, input_precision=a.WEIGHTING, out_dtype=a.SUM)


@triton.jit
def _logits(a, query, key, features, bias, scale):
    x, y, distance, sine, cosine = features
    position_bias = bias[0] * x + bias[1] * y + bias[2] * distance + bias[3] * sine
    return _products(a, query, key) * scale + position_bias + bias[4] * cosine + bias[5]


@triton.jit
def _queries_of_program(a):
    """Return image, head, tokens of the tile and which of them exist. Heads of a tile are
    neighbors, as they are in memory."""
    program = tl.program_id(0)
    tiles = tl.cdiv(a.tokens, a.QUERIES)
    token = program // a.heads % tiles * a.QUERIES + tl.arange(0, a.QUERIES)
    return program // a.heads // tiles, program % a.heads, token, token < a.tokens


@triton.jit
def _load_clusters(a, image, token, exists):
    """Return the clusters that each token sees, ``num_clusters`` for none, and the last of all."""
    column = tl.arange(0, a.SEEN)[None, :]
    clusters = tl.load(
        a.clusters
        + image.to(tl.int64) * a.tokens * a.clusters_per_token
        + (token.to(a.INDEX) * a.clusters_per_token)[:, None]
        + column,
        mask=exists[:, None] & (column < a.clusters_per_token),
        other=-1,
    )
    in_range = (clusters >= 0) & (clusters < a.num_clusters)
    return tl.where(in_range, clusters, a.num_clusters), tl.max(tl.where(in_range, clusters, -1))


@triton.jit
def _next_clusters(a, clusters, last):
    """Fill a tile of keys with the next clusters after ``last`` that a token sees.

    Returns the last of them, the first token of the cluster of each key (beyond all tokens for
    none), and how often each token sees it.
    """
    place = tl.arange(0, a.KEYS) // a.cluster_size
    first = tl.full((a.KEYS,), a.num_clusters, a.INDEX) * a.cluster_size
    times = tl.zeros((a.QUERIES, a.KEYS), tl.int32)
    for i in tl.static_range(a.CLUSTERS):
        last = tl.min(tl.where(clusters > last, clusters, a.num_clusters))
        times_of_last = tl.sum((clusters == last).to(tl.int32), 1)
        first = tl.where(place == i, last.to(a.INDEX) * a.cluster_size, first)
        times = tl.where((place == i)[None, :], times_of_last[:, None], times)
    return last, first, times


@triton.jit
def _load_keys(a, image, head, first, start, times, query, position, bias, scale):
    """Return the tokens of a tile of keys, from ``start`` on in their clusters, and which of them
    exist; their rows, offset features and logits, -inf where a query does not see a key."""
    slot = start + tl.arange(0, a.KEYS) % a.cluster_size
    token = first + slot
    exists = (slot < a.cluster_size) & (token < a.tokens)
    key = _load_rows(a, a.k, image, token, head, exists)
    features = _offset_features(position, _load_positions(a, image, token, exists))
    logits = _logits(a, query, key, features, bias, scale)
    logits = tl.where(exists[None, :] & (times > 0), logits, -float("inf"))
    return token, exists, key, features, logits


@triton.jit
def _add_to_softmax(largest, total, logits, times):
    """Return the largest logits, the sums of exponentials relative to them, the factor that
    rescales earlier sums, and the exponentials of these logits."""
    now_largest = tl.maximum(largest, tl.max(logits, 1))
    shrink = tl.exp(largest - now_largest)
    weights = times * tl.exp(logits - now_largest[:, None])
    return now_largest, total * shrink + tl.sum(weights, 1), shrink, weights


@triton.jit
def forward_kernel(output, a, scale: tl.float64):
    image, head, token, exists = _queries_of_program(a)
    query = _load_rows(a, a.q, image, token, head, exists)
    position = _load_positions(a, image, token, exists)
    clusters, end = _load_clusters(a, image, token, exists)
    bias = _load_bias(a, head)
    scale = tl.full((), scale, a.SUM)

    largest = tl.sum(query * _load_blank(a, a.blank_k, head), 1) * scale
    total = tl.full((a.QUERIES,), 1, a.SUM)
    sums = tl.zeros((a.QUERIES, a.CHANNELS), a.SUM) + _load_blank(a, a.blank_v, head)
    last = tl.full((), -1, tl.int32)
    while last < end:
        last, first, times = _next_clusters(a, clusters, last)
        for start in range(0, a.cluster_size, a.KEYS):
            key_token, key_exists, _, _, logits = _load_keys(
                a, image, head, first, start, times, query, position, bias, scale
            )
            largest, total, shrink, weights = _add_to_softmax(largest, total, logits, times)
            value = _load_rows(a, a.v, image, key_token, head, key_exists)
            sums = sums * shrink[:, None] + _weighted_sums(a, weights, value)
    _store_rows(a, output, image, token, head, exists, sums / total[:, None])


@triton.jit
def backward_queries_kernel(
    grad_q,
    log_sums,  # (images, tokens, heads): logarithms of the sums of the exponentials of all logits
    means,  # (images, tokens, heads): of the gradients of the weights, under the weights
    grad_position,  # (images, tiles, heads, FEATURES + 1): parts of pos_weight's and pos_bias's
    grad_blank_k,  # (images, tiles, heads, channels): parts of that of blank_k
    grad_blank_v,
    grad_output,
    a,
    scale: tl.float64,
):
    image, head, token, exists = _queries_of_program(a)
    query = _load_rows(a, a.q, image, token, head, exists)
    grad = _load_rows(a, grad_output, image, token, head, exists)
    position = _load_positions(a, image, token, exists)
    clusters, end = _load_clusters(a, image, token, exists)
    bias = _load_bias(a, head)
    scale = tl.full((), scale, a.SUM)

    blank_key = _load_blank(a, a.blank_k, head)
    blank_logit = tl.sum(query * blank_key, 1) * scale
    blank_product = tl.sum(grad * _load_blank(a, a.blank_v, head), 1)
    largest = blank_logit
    total = tl.full((a.QUERIES,), 1, a.SUM)
    products = blank_product
    last = tl.full((), -1, tl.int32)
    while last < end:
        last, first, times = _next_clusters(a, clusters, last)
        for start in range(0, a.cluster_size, a.KEYS):
            key_token, key_exists, _, _, logits = _load_keys(
                a, image, head, first, start, times, query, position, bias, scale
            )
            largest, total, shrink, weights = _add_to_softmax(largest, total, logits, times)
            value = _load_rows(a, a.v, image, key_token, head, key_exists)
            products = products * shrink + tl.sum(weights * _products(a, grad, value), 1)
    log_sum = largest + tl.log(total)
    mean = products / total
    blank_weight = tl.exp(blank_logit - log_sum)
    blank_grad = blank_weight * (blank_product - mean)

    sums = blank_grad[:, None] * blank_key
    by_x = tl.zeros((a.QUERIES,), a.SUM)
    by_y = tl.zeros((a.QUERIES,), a.SUM)
    by_distance = tl.zeros((a.QUERIES,), a.SUM)
    by_sine = tl.zeros((a.QUERIES,), a.SUM)
    by_cosine = tl.zeros((a.QUERIES,), a.SUM)
    by_bias = tl.zeros((a.QUERIES,), a.SUM)
    last = tl.full((), -1, tl.int32)
    while last < end:
        last, first, times = _next_clusters(a, clusters, last)
        for start in range(0, a.cluster_size, a.KEYS):
            key_token, key_exists, key, features, logits = _load_keys(
                a, image, head, first, start, times, query, position, bias, scale
            )
            value = _load_rows(a, a.v, image, key_token, head, key_exists)
            weights = times * tl.exp(logits - log_sum[:, None])
            grad_logits = weights * (_products(a, grad, value) - mean[:, None])
            sums += _weighted_sums(a, grad_logits, key)
            x, y, distance, sine, cosine = features
            by_x += tl.sum(grad_logits * x, 1)
            by_y += tl.sum(grad_logits * y, 1)
            by_distance += tl.sum(grad_logits * distance, 1)
            by_sine += tl.sum(grad_logits * sine, 1)
            by_cosine += tl.sum(grad_logits * cosine, 1)
            by_bias += tl.sum(grad_logits, 1)

    _store_rows(a, grad_q, image, token, head, exists, scale * sums)
    triple = (image.to(a.INDEX) * a.tokens + token) * a.heads + head
    tl.store(log_sums + triple, log_sum, mask=exists)
    tl.store(means + triple, mean, mask=exists)
    part = tl.program_id(0).to(a.INDEX)
    grad_position += part * (FEATURES + 1)
    tl.store(grad_position, tl.sum(by_x))
    tl.store(grad_position + 1, tl.sum(by_y))
    tl.store(grad_position + 2, tl.sum(by_distance))
    tl.store(grad_position + 3, tl.sum(by_sine))
    tl.store(grad_position + 4, tl.sum(by_cosine))
    tl.store(grad_position + 5, tl.sum(by_bias))
    channel = tl.arange(0, a.CHANNELS)
    of_blank = part * a.channels + channel
    by_blank_k = scale * tl.sum(blank_grad[:, None] * query, 0)
    by_blank_v = tl.sum(blank_weight[:, None] * grad, 0)
    tl.store(grad_blank_k + of_blank, by_blank_k, mask=channel < a.channels)
    tl.store(grad_blank_v + of_blank, by_blank_v, mask=channel < a.channels)


@triton.jit
def backward_keys_kernel(
    grad_k,
    grad_v,
    log_sums,
    means,
    indices,  # (images, tokens * clusters_per_token): the tokens that see each cluster
    offsets,  # (images, num_clusters + 1): bounds of each cluster in the indices
    grad_output,
    a,
    scale: tl.float64,
):
    """Here a program works on tokens of one cluster as keys."""
    program = tl.program_id(0)
    tiles = tl.cdiv(a.cluster_size, a.KEYS)
    head = program % a.heads
    tile = program // a.heads % tiles
    cluster = program // a.heads // tiles % a.num_clusters
    image = program // a.heads // tiles // a.num_clusters
    slot = tile * a.KEYS + tl.arange(0, a.KEYS)
    key_token = cluster.to(a.INDEX) * a.cluster_size + slot
    key_exists = (slot < a.cluster_size) & (key_token < a.tokens)
    key = _load_rows(a, a.k, image, key_token, head, key_exists)
    value = _load_rows(a, a.v, image, key_token, head, key_exists)
    key_position = _load_positions(a, image, key_token, key_exists)
    bias = _load_bias(a, head)
    scale = tl.full((), scale, a.SUM)
    indices += image.to(tl.int64) * a.tokens * a.clusters_per_token
    offsets += image.to(tl.int64) * (a.num_clusters + 1) + cluster
    statistics = image.to(tl.int64) * a.tokens * a.heads + head

    sums_k = tl.zeros((a.KEYS, a.CHANNELS), a.SUM)
    sums_v = tl.zeros((a.KEYS, a.CHANNELS), a.SUM)
    end = tl.load(offsets + 1).to(a.INDEX)
    for start in range(tl.load(offsets).to(a.INDEX), end, a.QUERIES):
        entry = start + tl.arange(0, a.QUERIES)
        exists = entry < end
        token = tl.load(indices + entry, mask=exists, other=0)
        query = _load_rows(a, a.q, image, token, head, exists)
        grad = _load_rows(a, grad_output, image, token, head, exists)
        features = _offset_features(_load_positions(a, image, token, exists), key_position)
        of_token = statistics + token.to(a.INDEX) * a.heads
        log_sum = tl.load(log_sums + of_token, mask=exists, other=float("inf"))
        mean = tl.load(means + of_token, mask=exists, other=0)
        weights = tl.exp(_logits(a, query, key, features, bias, scale) - log_sum[:, None])
        grad_logits = weights * (_products(a, grad, value) - mean[:, None])
        sums_v += _weighted_sums(a, tl.trans(weights), grad)
        sums_k += _weighted_sums(a, tl.trans(grad_logits), query)
    _store_rows(a, grad_k, image, key_token, head, key_exists, scale * sums_k)
    _store_rows(a, grad_v, image, key_token, head, key_exists, sums_v)


def _rows(tensor: Tensor) -> Rows:
    """Return a tensor (images, tokens, heads, channels) as rows, a copy if they are scattered."""
    if tensor.stride(3) != 1:
        tensor = tensor.contiguous()
    return Rows(tensor, *tensor.stride()[:3])


def _prepare(a: Arguments, *further: Tensor) -> Inputs:
    """Return the inputs of the kernels; ``further`` tensors are indexed too."""
    _, tokens, heads, channels = a.q.shape
    limit = MAX_ROW_BYTES // a.pos_bias.element_size()
    if channels > limit:
        raise ValueError(f"q: expected at most {limit} channels a head in Triton, got {channels}")
    q, k, v = map(_rows, (a.q, a.k, a.v))
    contiguous = (a.positions, a.clusters, a.pos_weight, a.pos_bias, a.blank_k, a.blank_v)
    clusters_per_token = a.clusters.shape[2]
    cluster_size = min(a.cluster_size, max(tokens, 1))
    precision = TYPES[a.pos_bias.dtype]
    half = a.q.dtype != a.pos_bias.dtype
    return Inputs(
        q,
        k,
        v,
        *(tensor.contiguous() for tensor in contiguous),
        tokens,
        heads,
        channels,
        clusters_per_token,
        cluster_size,
        num_clusters=triton.cdiv(tokens, cluster_size),
        CHANNELS=tile_extent(max(channels, MIN_CHANNELS)),
        QUERIES=tl.constexpr(TILE_QUERIES),
        KEYS=tl.constexpr(TILE_KEYS),
        CLUSTERS=tl.constexpr(max(TILE_KEYS // cluster_size, 1)),
        SEEN=tile_extent(clusters_per_token),
        INDEX=index_type(q.tensor, k.tensor, v.tensor, a.positions, a.clusters, *further),
        SUM=tl.constexpr(precision),
        PRODUCT=tl.constexpr("tf32" if half else "ieee"),
        WEIGHTING=tl.constexpr("tf32x3" if half else "ieee"),
    )


def _num_warps(inputs: Inputs) -> int:
    """Return the warps that hold the rows of the tiles in their registers."""
    return max(1, inputs.CHANNELS.value // 32)


def cluster_attention(*arguments) -> Tensor:
    """Compute ``torch.ops.segcore.cluster_attention``."""
    a = Arguments(*arguments)
    inputs = _prepare(a)
    batch, tokens, heads, channels = a.q.shape
    output = a.q.new_empty(a.q.shape)
    programs = batch * triton.cdiv(tokens, TILE_QUERIES) * heads
    num_warps = _num_warps(inputs)
    launch(forward_kernel, programs, _rows(output), inputs, a.scale, num_warps=num_warps)
    return output.view(batch, tokens, heads * channels)


def cluster_attention_backward(grad_output: Tensor, *arguments) -> tuple[Tensor, ...]:
    """Compute ``torch.ops.segcore.cluster_attention_backward``."""
    a = Arguments(*arguments)
    batch, tokens, heads, channels = a.q.shape
    tiles = triton.cdiv(tokens, TILE_QUERIES)
    grad_q, grad_k, grad_v = (a.q.new_empty(a.q.shape) for _ in range(3))
    log_sums, means = (a.pos_bias.new_empty(batch, tokens, heads) for _ in range(2))
    grad_position = a.pos_bias.new_empty(batch, tiles, heads, NUM_OFFSET_FEATURES + 1)
    grad_blank_k, grad_blank_v = (
        a.pos_bias.new_empty(batch, tiles, heads, channels) for _ in range(2)
    )
    inputs = _prepare(a, grad_output, grad_q)
    grad = _rows(grad_output.view(a.q.shape))
    num_warps = _num_warps(inputs)
    launch(
        backward_queries_kernel,
        batch * tiles * heads,
        _rows(grad_q),
        log_sums,
        means,
        grad_position,
        grad_blank_k,
        grad_blank_v,
        grad,
        inputs,
        a.scale,
        num_warps=num_warps,
    )
    launch(
        backward_keys_kernel,
        batch * inputs.num_clusters * triton.cdiv(inputs.cluster_size, CLUSTER_KEYS) * heads,
        _rows(grad_k),
        _rows(grad_v),
        log_sums,
        means,
        a.indices.contiguous(),
        a.offsets.contiguous(),
        grad,
        inputs._replace(KEYS=tl.constexpr(CLUSTER_KEYS)),
        a.scale,
        num_warps=num_warps,
    )
    grad_position, grad_blank_k, grad_blank_v = (
        parts.sum((0, 1)) for parts in (grad_position, grad_blank_k, grad_blank_v)
    )
    return (
        grad_q,
        grad_k,
        grad_v,
        grad_position[:, :NUM_OFFSET_FEATURES].clone(),
        grad_position[:, NUM_OFFSET_FEATURES].clone(),
        grad_blank_k.flatten(),
        grad_blank_v.flatten(),
    )
