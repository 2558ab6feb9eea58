"""Balanced clustering of tokens in the plane (AutoFocusFormer, Ziwen et al., CVPR 2023, section
3.1), exact in float32."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import as_canvas_size, check_floating
from ._operator import operator


class Arguments(NamedTuple):
    """Checked arguments: positions in float32, the canvas as two integers."""

    positions: Tensor
    cluster_size: int
    canvas: tuple[int, int]
    per_image: bool


def _clusters(a: Arguments) -> tuple[Tensor, Tensor]:
    num_clusters = -(-a.positions.shape[1] // a.cluster_size)
    if a.positions.numel() == 0:
        return _fake(a)
    rows, columns = _patches(num_clusters, a.canvas)
    if rows * columns == 1:
        order = _order_by_x_then_y(a.positions)
    else:
        keys = _sort_keys(a.positions, rows, columns, a.canvas, a.per_image)
        order = keys.argsort(dim=-1, stable=True)
    ordered = a.positions.gather(1, order[..., None].expand_as(a.positions))
    return order, _means(ordered, a.cluster_size)


def _patches(num_clusters: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of nearly square patches, about one a cluster."""
    height, width = canvas
    side = math.sqrt(height * width / num_clusters)
    return max(1, round(height / side)), max(1, round(width / side))


def _order_by_x_then_y(positions: Tensor) -> Tensor:
    x, y = positions.unbind(-1)
    by_y = y.argsort(dim=-1, stable=True)
    return by_y.gather(-1, x.gather(-1, by_y).argsort(dim=-1, stable=True))


def _sort_keys(
    positions: Tensor, rows: int, columns: int, canvas: tuple[int, int], per_image: bool
) -> Tensor:
    sides = canvas[1] / columns, canvas[0] / rows
    size = torch.stack([positions.new_full((), side) for side in sides])  # of a patch, in float32
    anchors = _anchors(rows, columns, size)
    previous = torch.cat([anchors[:1] - (anchors[1:2] - anchors[:1]), anchors[:-1]])
    following = torch.cat([anchors[1:], anchors[-1:] + (anchors[-1:] - anchors[-2:-1])])

    px, py = (positions / size).nan_to_num(nan=0.0).floor().unbind(-1)
    px, py = px.clamp(0, columns - 1).long(), py.clamp(0, rows - 1).long()
    rank = py * columns + torch.where(py % 2 == 0, px, columns - 1 - px)
    ratio = _squared_distance(positions, previous[rank])
    ratio = ratio / (_squared_distance(positions, following[rank]) + 1e-5)
    largest = ratio.amax(1, keepdim=True) if per_image else ratio.max()
    return rank.float() * (largest + 1) + ratio


def _anchors(rows: int, columns: int, size: Tensor) -> Tensor:
    """Return the centers of the patches in the order of the serpentine: (rows * columns, 2)."""
    x, y = (
        torch.arange(count, device=size.device).float() * side + side / 2 - 0.5
        for count, side in zip((columns, rows), size, strict=True)
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    x = torch.where(torch.arange(rows, device=size.device)[:, None] % 2 == 0, x, x.flip(1))
    return torch.stack([x, y], -1).flatten(0, 1)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    dx, dy = (a - b).unbind(-1)
    return dx * dx + dy * dy


def _means(ordered: Tensor, cluster_size: int) -> Tensor:
    """Return the mean positions of the clusters.

    Sums of float32 are exact in float64, so that their order does not matter, and the mean of whole
    numbers is that of float32.
    """
    batch, tokens, _ = ordered.shape
    full = tokens // cluster_size * cluster_size
    clusters = ordered[:, :full].double().view(batch, -1, cluster_size, 2)
    means = [clusters.sum(2) / cluster_size]
    if full < tokens:
        means.append(ordered[:, full:].double().sum(1, keepdim=True) / (tokens - full))
    return torch.cat(means, 1).float()


def _fake(a: Arguments) -> tuple[Tensor, Tensor]:
    batch, tokens, _ = a.positions.shape
    order = a.positions.new_empty(batch, tokens, dtype=torch.int64)
    return order, a.positions.new_empty(batch, -(-tokens // a.cluster_size), 2)


@operator(Arguments, reference=_clusters, fake=_fake)
def balanced_clusters(
    positions: Tensor, cluster_size: int, canvas: Sequence[int], *, per_image: bool = False
) -> Arguments:
    """Order the tokens along a curve through the canvas, so that equal pieces of it are clusters.

    The canvas is cut into as many patches, nearly square, as there are clusters, about; a
    serpentine visits them row by row. Inside a patch tokens go by the ratio of the squared
    distances to the previous patch and to the next one. A single patch goes by x, then by y.
    Cluster ``j`` has the tokens ``order[j * cluster_size:(j + 1) * cluster_size]``; the last one
    may have fewer.

    All operations are rounded to float32, without fused multiply-add, and equal keys stay in the
    order of the tokens: the result is the same on every device. (In plain PyTorch under
    ``torch.compile`` this is up to its back end.) As published, rounding of the keys depends on the
    largest ratio of the whole batch, and so the order of nearly equal tokens on the other images.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`balanced_clusters_reference`. No gradient.

    Args:
        positions: (B, N, 2) floating-point (x, y) in cells, converted to float32; those outside the
            canvas belong to its nearest patch
        cluster_size: tokens a cluster, at least 1
        canvas: (height, width) in cells
        per_image: whether an image is independent of the others in the batch

    Returns:
        order (B, N) int64 and centers (B, ceil(N / cluster_size), 2) float32, the mean positions

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape or size
    """
    check_floating("positions", positions)
    if positions.dim() != 3 or positions.shape[-1] != 2:
        raise ValueError(f"positions: expected shape (B, N, 2), got {tuple(positions.shape)}")
    if cluster_size < 1:
        raise ValueError(f"cluster_size: expected at least 1, got {cluster_size}")
    # A cluster of more tokens than there are is one of all tokens.
    cluster_size = min(cluster_size, max(positions.shape[1], 1))
    return Arguments(positions.detach().float(), cluster_size, as_canvas_size(canvas), per_image)


balanced_clusters_reference = balanced_clusters.reference
