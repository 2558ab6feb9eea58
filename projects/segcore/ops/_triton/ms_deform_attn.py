"""Multi-scale deformable attention in Triton.

A program works on a tile of neighboring queries of one head, so that their samples meet in the
first-level cache. Each of the four corners of a sample is a tile (queries, channels), which is read
16 bytes a lane where the channels allow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

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
def _queries_of_program(a):
    """Return image, head, (image, query, head) triples of the tile, and which of them exist."""
    tiles = tl.cdiv(a.queries, a.QUERIES)
    program = tl.program_id(0)
    head = program % a.heads
    image = program // a.heads // tiles
    query = program // a.heads % tiles * a.QUERIES + tl.arange(0, a.QUERIES)
    return image, head, (image.to(a.INDEX) * a.queries + query) * a.heads + head, query < a.queries


@triton.jit
def _rows(a, row, stride, exists):
    """Return offsets and mask of rows of channels."""
    channel = tl.arange(0, a.CHANNELS)[None, :]
    return (row.to(a.INDEX) * stride)[:, None] + channel, exists[:, None] & (channel < a.channels)


@triton.jit
def _level_size(a, level: tl.constexpr):
    """Return height and width, and the latter as an integer."""
    width = tl.full((), a.spatial_shapes[2 * level + 1], a.SUM)
    return tl.full((), a.spatial_shapes[2 * level], a.SUM), width, width.to(tl.int32)


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
def _corner(y, x, columns, BOTTOM: tl.constexpr, RIGHT: tl.constexpr):
    """Return weights in y and x of a corner of the samples, its cell, and whether it exists."""
    cell_y, way_y, has_top, has_bottom = y
    cell_x, way_x, has_left, has_right = x
    return (
        way_y if BOTTOM else 1 - way_y,
        way_x if RIGHT else 1 - way_x,
        (cell_y + BOTTOM) * columns + cell_x + RIGHT,
        (has_bottom if BOTTOM else has_top) & (has_right if RIGHT else has_left),
    )


@triton.jit
def forward_kernel(output, a):
    image, head, triple, exists = _queries_of_program(a)
    row_size = a.heads * a.channels
    start = image.to(tl.int64) * a.cells * row_size + head * a.channels
    total = tl.zeros((a.QUERIES, a.CHANNELS), a.SUM)
    for level in tl.static_range(a.LEVELS):
        height, width, columns = _level_size(a, level)
        for point in tl.range(0, a.POINTS, loop_unroll_factor=2):
            sample = (triple * a.LEVELS + level) * a.POINTS + point
            attention, y, x = _load_sample(a, sample, height, width, exists)
            for i in tl.static_range(4):
                weight_y, weight_x, cell, present = _corner(y, x, columns, i // 2, i % 2)
                offsets, mask = _rows(a, cell, row_size, present)
                features = tl.load(a.value + start + offsets, mask=mask, other=0).to(a.SUM)
                total += (attention * weight_y * weight_x)[:, None] * features
        start += height.to(tl.int64) * columns * row_size
    offsets, mask = _rows(a, triple, a.channels, exists)
    tl.store(output + offsets, total.to(output.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    grad_value, grad_locations, grad_weights, grad_output, a, ADDS_VALUE: tl.constexpr
):
    """Sums the gradient of the value by atomics, in changing order, or leaves it out."""
    image, head, triple, exists = _queries_of_program(a)
    row_size = a.heads * a.channels
    start = image.to(tl.int64) * a.cells * row_size + head * a.channels
    offsets, mask = _rows(a, triple, a.channels, exists)
    grad = tl.load(grad_output + offsets, mask=mask, other=0).to(a.SUM)
    for level in tl.static_range(a.LEVELS):
        height, width, columns = _level_size(a, level)
        for point in range(a.POINTS):
            sample = (triple * a.LEVELS + level) * a.POINTS + point
            attention, y, x = _load_sample(a, sample, height, width, exists)
            # Derivatives of the sum by attention weight and position in cells.
            by_weight = tl.zeros((a.QUERIES,), a.SUM)
            by_x = tl.zeros((a.QUERIES,), a.SUM)
            by_y = tl.zeros((a.QUERIES,), a.SUM)
            for i in tl.static_range(4):
                weight_y, weight_x, cell, present = _corner(y, x, columns, i // 2, i % 2)
                offsets, mask = _rows(a, cell, row_size, present)
                features = tl.load(a.value + start + offsets, mask=mask, other=0).to(a.SUM)
                product = tl.sum(grad * features, 1)
                by_weight += weight_y * weight_x * product
                by_x += weight_y * (product if i % 2 else -product)
                by_y += weight_x * (product if i // 2 else -product)
                if ADDS_VALUE:
                    part = (attention * weight_y * weight_x)[:, None] * grad
                    tl.atomic_add(grad_value + start + offsets, part, mask=mask, sem="relaxed")
            tl.store(grad_weights + sample, by_weight, mask=exists)
            tl.store(grad_locations + 2 * sample, attention * width * by_x, mask=exists)
            tl.store(grad_locations + 2 * sample + 1, attention * height * by_y, mask=exists)
        start += height.to(tl.int64) * columns * row_size


@triton.jit
def corners_kernel(rows, weights, a, num_rows):
    """Write the row of the value that each corner of each sample reads, ``num_rows`` for none, and
    its weight."""
    image, head, triple, exists = _queries_of_program(a)
    start = image.to(a.INDEX) * a.cells * a.heads + head
    for level in tl.static_range(a.LEVELS):
        height, width, columns = _level_size(a, level)
        for point in range(a.POINTS):
            sample = (triple * a.LEVELS + level) * a.POINTS + point
            attention, y, x = _load_sample(a, sample, height, width, exists)
            for i in tl.static_range(4):
                weight_y, weight_x, cell, present = _corner(y, x, columns, i // 2, i % 2)
                row = tl.where(present, start + cell.to(a.INDEX) * a.heads, num_rows)
                tl.store(rows + 4 * sample + i, row, mask=exists)
                tl.store(weights + 4 * sample + i, attention * weight_y * weight_x, mask=exists)
        start += height.to(a.INDEX) * columns * a.heads


@triton.jit
def gather_kernel(grad_value, offsets, corners, weights, grad_output, a, num_rows):
    """Sum the gradient of each row of the value over the corners that read it, in their order."""
    row = tl.program_id(0).to(a.INDEX) * a.QUERIES + tl.arange(0, a.QUERIES)
    exists = row < num_rows
    first = tl.load(offsets + row, mask=exists, other=0)
    count = tl.load(offsets + row + 1, mask=exists, other=0) - first
    total = tl.zeros((a.QUERIES, a.CHANNELS), a.SUM)
    for i in range(tl.max(count)):
        present = i < count
        corner = tl.load(corners + first + i, mask=present, other=0)
        weight = tl.load(weights + corner, mask=present, other=0)
        source, mask = _rows(a, corner // (4 * a.LEVELS * a.POINTS), a.channels, present)
        grad = tl.load(grad_output + source, mask=mask, other=0).to(a.SUM)
        total += weight[:, None] * grad
    target, mask = _rows(a, row, a.channels, exists)
    tl.store(grad_value + target, total.to(grad_value.dtype.element_ty), mask=mask)


def _prepare(a: Arguments, num_warps: int, *further: Tensor) -> tuple[Inputs, int]:
    """Return the inputs of a kernel, and the number of its programs; ``further`` tensors are
    indexed too."""
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
        INDEX=index_type(*tensors, *further),
        SUM=tl.constexpr(TYPES[a.attention_weights.dtype]),
    )
    return inputs, batch * triton.cdiv(queries, tile) * heads


def ms_deform_attn(*arguments) -> Tensor:
    """Compute ``torch.ops.segcore.ms_deform_attn``."""
    a = Arguments(*arguments)
    batch, _, heads, channels = a.value.shape
    output = a.value.new_empty(batch, a.sampling_locations.shape[1], heads * channels)
    inputs, programs = _prepare(a, FORWARD_WARPS, output)
    launch(forward_kernel, programs, output, inputs, num_warps=FORWARD_WARPS)
    return output


def ms_deform_attn_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``torch.ops.segcore.ms_deform_attn_backward``.

    The gradient of the value is summed by atomics, in changing order; where ``deterministic`` or
    :func:`torch.use_deterministic_algorithms` asks for it, over sorted corners instead.
    """
    a = Arguments(value, spatial_shapes, sampling_locations, attention_weights)
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    grad_output = grad_output.contiguous()
    inputs, programs = _prepare(a, BACKWARD_WARPS, grad_output)
    grad_value = torch.zeros_like(inputs.value, dtype=a.attention_weights.dtype)
    grad_locations, grad_weights = map(torch.empty_like, (inputs.locations, inputs.weights))
    launch(
        backward_kernel,
        programs,
        grad_value,
        grad_locations,
        grad_weights,
        grad_output,
        inputs,
        not deterministic,
        num_warps=BACKWARD_WARPS,
    )
    if deterministic:
        _sum_over_sorted_corners(grad_value, grad_output, a)
    return grad_value.to(a.value.dtype), grad_locations, grad_weights


def _sum_over_sorted_corners(grad_value: Tensor, grad_output: Tensor, a: Arguments) -> None:
    weights = a.attention_weights.new_empty(*a.attention_weights.shape, 4)
    inputs, programs = _prepare(a, BACKWARD_WARPS, grad_output, weights)
    num_rows = a.value.shape[:3].numel()
    rows = torch.empty_like(weights, dtype=torch.int32 if num_rows < 2**31 else torch.int64)
    launch(corners_kernel, programs, rows, weights, inputs, num_rows, num_warps=BACKWARD_WARPS)
    rows, corners = rows.flatten().sort(stable=True)
    bounds = torch.arange(num_rows + 1, dtype=rows.dtype, device=rows.device)
    launch(
        gather_kernel,
        triton.cdiv(num_rows, inputs.QUERIES.value),
        grad_value,
        torch.searchsorted(rows, bounds),
        corners,
        weights,
        grad_output,
        inputs,
        num_rows,
        num_warps=BACKWARD_WARPS,
    )
