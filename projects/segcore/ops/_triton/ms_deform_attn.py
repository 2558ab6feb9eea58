"""Multi-scale deformable attention in Triton.

A program works on a tile of neighboring queries of one head, so that their samples meet in the
first-level cache. Each of the four corners of a sample is a tile (queries, channels), which is read
16 bytes a lane where the channels allow.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._prims_common import alert_not_deterministic

from ..ms_deform_attn import Arguments
from .launch import TYPES, index_type, launch, tile_extent

MAX_SIDE = 2**24  # of a level: sides and positions in cells are exact in float32
BYTES_OF_LANE = 16
FORWARD_WARPS = 4
BACKWARD_WARPS = 1  # its sums over channels change hands between lanes: no barrier within a warp


class Inputs(NamedTuple):
    """Contiguous tensors, sizes and, in capitals, constants of the kernels."""

    value: Tensor  # (images, cells, heads, channels)
    locations: Tensor  # (images, queries, heads, levels, points, 2)
    weights: Tensor  # (images, queries, heads, levels, points)
    spatial_shapes: tuple[float, ...]  # floats: for other integers Triton may compile anew
    queries: int
    cells: int
    heads: int
    channels: int
    LEVELS: Any
    POINTS: Any
    QUERIES: Any  # of a tile
    CHANNELS: Any  # of a tile
    INDEX: Any
    SUM: Any


@triton.jit
def _locate(a):
    """Return offset of the head in the value, (image, query, head) triples of the tile, and which
    of them exist."""
    tiles = tl.cdiv(a.queries, a.QUERIES)
    program = tl.program_id(0)
    head = program % a.heads
    image = program // a.heads // tiles
    query = program // a.heads % tiles * a.QUERIES + tl.arange(0, a.QUERIES)
    start = image.to(tl.int64) * a.cells * a.heads * a.channels + head * a.channels
    return start, (image.to(a.INDEX) * a.queries + query) * a.heads + head, query < a.queries


@triton.jit
def _rows(a, row, stride, exists):
    """Return offsets and mask of rows of channels."""
    channel = tl.arange(0, a.CHANNELS)[None, :]
    return (row.to(a.INDEX) * stride)[:, None] + channel, exists[:, None] & (channel < a.channels)


@triton.jit
def _axis(location, size, exists):
    """Return the position in cells, and whether a sample there gets anything from the map; never
    for NaN."""
    position = location * size - 0.5
    return position, exists & (position > -1) & (position < size)


@triton.jit
def _neighbors(position, touches, size):
    """Return the lower neighboring cell, the way to it in cells, and which of both neighbors
    exist."""
    position = tl.where(touches, position, 0)
    low = tl.floor(position)
    cell = low.to(tl.int32)
    return cell, position - low, touches & (cell >= 0), touches & (cell + 1 < size.to(tl.int32))


@triton.jit
def _load_sample(a, sample, height, width, exists):
    """Return attention weights, and neighbors in y and x; none, and weight 0, where a sample does
    not touch the map."""
    x, exists_x = _axis(tl.load(a.locations + 2 * sample, mask=exists, other=0), width, exists)
    y, exists_y = _axis(tl.load(a.locations + 2 * sample + 1, mask=exists, other=0), height, exists)
    touches = exists_x & exists_y
    attention = tl.load(a.weights + sample, mask=touches, other=0)
    return attention, _neighbors(y, touches, height), _neighbors(x, touches, width)


@triton.jit
def _corner(a, y, x, columns, BOTTOM: tl.constexpr, RIGHT: tl.constexpr):
    """Return weights in y and x, offsets and mask of a corner of the samples."""
    cell_y, way_y, has_top, has_bottom = y
    cell_x, way_x, has_left, has_right = x
    offsets, mask = _rows(
        a,
        (cell_y + BOTTOM) * columns + cell_x + RIGHT,
        a.heads * a.channels,
        (has_bottom if BOTTOM else has_top) & (has_right if RIGHT else has_left),
    )
    return way_y if BOTTOM else 1 - way_y, way_x if RIGHT else 1 - way_x, offsets, mask


@triton.jit
def forward_kernel(output, a):
    start, triple, exists = _locate(a)
    total = tl.zeros((a.QUERIES, a.CHANNELS), a.SUM)
    for level in tl.static_range(a.LEVELS):
        height = tl.full((), a.spatial_shapes[2 * level], a.SUM)
        width = tl.full((), a.spatial_shapes[2 * level + 1], a.SUM)
        columns = width.to(tl.int32)
        for point in tl.range(0, a.POINTS, loop_unroll_factor=2):
            sample = (triple * a.LEVELS + level) * a.POINTS + point
            attention, y, x = _load_sample(a, sample, height, width, exists)
            for corner in tl.static_range(4):
                weight_y, weight_x, offsets, mask = _corner(
                    a, y, x, columns, corner // 2, corner % 2
                )
                features = tl.load(a.value + start + offsets, mask=mask, other=0).to(a.SUM)
                total += (attention * weight_y * weight_x)[:, None] * features
        start += height.to(tl.int64) * columns * a.heads * a.channels
    offsets, mask = _rows(a, triple, a.channels, exists)
    tl.store(output + offsets, total.to(output.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(grad_value, grad_locations, grad_weights, grad_output, a):
    start, triple, exists = _locate(a)
    offsets, mask = _rows(a, triple, a.channels, exists)
    grad = tl.load(grad_output + offsets, mask=mask, other=0).to(a.SUM)
    for level in tl.static_range(a.LEVELS):
        height = tl.full((), a.spatial_shapes[2 * level], a.SUM)
        width = tl.full((), a.spatial_shapes[2 * level + 1], a.SUM)
        columns = width.to(tl.int32)
        for point in range(a.POINTS):
            sample = (triple * a.LEVELS + level) * a.POINTS + point
            attention, y, x = _load_sample(a, sample, height, width, exists)
            # Derivatives of the sum by attention weight and position in cells.
            by_weight = tl.zeros((a.QUERIES,), a.SUM)
            by_x = tl.zeros((a.QUERIES,), a.SUM)
            by_y = tl.zeros((a.QUERIES,), a.SUM)
            for corner in tl.static_range(4):
                weight_y, weight_x, offsets, mask = _corner(
                    a, y, x, columns, corner // 2, corner % 2
                )
                features = tl.load(a.value + start + offsets, mask=mask, other=0).to(a.SUM)
                product = tl.sum(grad * features, 1)
                by_weight += weight_y * weight_x * product
                by_x += weight_y * (product if corner % 2 else -product)
                by_y += weight_x * (product if corner // 2 else -product)
                tl.atomic_add(
                    grad_value + start + offsets,
                    (attention * weight_y * weight_x)[:, None] * grad,
                    mask=mask,
                    sem="relaxed",
                )
            tl.store(grad_weights + sample, by_weight, mask=exists)
            tl.store(grad_locations + 2 * sample, attention * width * by_x, mask=exists)
            tl.store(grad_locations + 2 * sample + 1, attention * height * by_y, mask=exists)
        start += height.to(tl.int64) * columns * a.heads * a.channels


def _prepare(a: Arguments, num_warps: int) -> tuple[Inputs, int]:
    """Return the inputs of a kernel, and the number of its programs."""
    if max(a.spatial_shapes, default=1) > MAX_SIDE:
        raise ValueError(
            f"spatial_shapes: expected sides of at most {MAX_SIDE} in Triton, got"
            f" {max(a.spatial_shapes)}"
        )
    batch, queries, heads, levels, points, _ = a.sampling_locations.shape
    cells, channels = a.value.shape[1], a.value.shape[3]
    extent = tile_extent(channels)
    lanes_of_row = max(extent.value * a.value.element_size() // BYTES_OF_LANE, 1)
    tile = max(num_warps * 32 // lanes_of_row, 1)
    tensors = tuple(t.contiguous() for t in (a.value, a.sampling_locations, a.attention_weights))
    inputs = Inputs(
        *tensors,
        tuple(map(float, a.spatial_shapes)),
        queries,
        cells,
        heads,
        channels,
        LEVELS=tl.constexpr(levels),
        POINTS=tl.constexpr(points),
        QUERIES=tl.constexpr(tile),
        CHANNELS=extent,
        INDEX=index_type(*tensors),
        SUM=tl.constexpr(TYPES[a.attention_weights.dtype]),
    )
    return inputs, batch * triton.cdiv(queries, tile) * heads


def ms_deform_attn(*arguments) -> Tensor:
    """Compute ``torch.ops.segcore.ms_deform_attn``."""
    a = Arguments(*arguments)
    batch, _, heads, channels = a.value.shape
    output = a.value.new_empty(batch, a.sampling_locations.shape[1], heads * channels)
    inputs, programs = _prepare(a, FORWARD_WARPS)
    launch(forward_kernel, programs, output, inputs, num_warps=FORWARD_WARPS)
    return output


def ms_deform_attn_backward(grad_output: Tensor, *arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``torch.ops.segcore.ms_deform_attn_backward``. The gradient of the value is summed by
    atomics, in changing order."""
    alert_not_deterministic("ms_deform_attn_backward in Triton")
    a = Arguments(*arguments[: len(Arguments._fields)])
    inputs, programs = _prepare(a, BACKWARD_WARPS)
    precision = a.attention_weights.dtype
    grad_value = torch.zeros_like(inputs.value, dtype=precision)
    grad_locations, grad_weights = map(torch.empty_like, (inputs.locations, inputs.weights))
    launch(
        backward_kernel, programs, grad_value, grad_locations, grad_weights,
        grad_output.contiguous(), inputs, num_warps=BACKWARD_WARPS,
    )  # fmt: skip
    return grad_value.to(a.value.dtype), grad_locations, grad_weights
