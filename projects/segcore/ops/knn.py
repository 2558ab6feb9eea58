"""Nearest neighbors in the plane, exact in float32."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import check_floating, check_same_device, check_shape
from ._operator import operator

# Distances that the twin holds at a time.
_MAX_DISTANCES = 1 << 22


class Arguments(NamedTuple):
    """Checked arguments: positions in float32."""

    queries: Tensor
    points: Tensor
    k: int


def _nearest(a: Arguments) -> Tensor:
    batch, num_points, _ = a.points.shape
    chunk = max(1, _MAX_DISTANCES // max(1, batch * num_points))
    index = torch.arange(num_points, device=a.points.device)
    nearest = []
    for queries in a.queries.split(chunk, dim=1):
        dx, dy = (queries[:, :, None] - a.points[:, None]).unbind(-1)
        distance = dx * dx + dy * dy
        # The bits of non-negative floats are ordered as the floats are; the index breaks ties.
        key = distance.view(torch.int32).long() << 32 | index
        nearest.append(key.topk(a.k, largest=False).values & 0xFFFFFFFF)
    return torch.cat(nearest, dim=1)


def _fake(a: Arguments) -> Tensor:
    return a.queries.new_empty(*a.queries.shape[:2], a.k, dtype=torch.int64)


@operator(Arguments, reference=_nearest, fake=_fake)
def knn(queries: Tensor, points: Tensor, k: int) -> Arguments:
    """Find the k nearest points of every query, nearest first; equally near ones by index.

    The order is that of ``dx * dx + dy * dy``, every operation rounded to float32, without fused
    multiply-add: float32 decides what is equally near, so that the result is the same on every
    device. (In plain PyTorch under ``torch.compile`` this is up to its back end.) The square root
    is left out, since it would make neighboring squares equal, not the same ones everywhere.
    Positions that are not finite have unspecified neighbors.

    The compiled kernel runs where there is one for the device (``python -m segcore.doctor``),
    otherwise :func:`knn_reference`. No gradient.

    Args:
        queries: (B, Q, 2) floating-point positions, converted to float32
        points: (B, N, 2) likewise
        k: from 1 to N

    Returns:
        (B, Q, k) int64 indices of points

    Raises:
        TypeError, ValueError: an argument has a wrong type, shape, device or size
    """
    for name, tensor in (("queries", queries), ("points", points)):
        check_floating(name, tensor)
        if tensor.dim() != 3 or tensor.shape[-1] != 2:
            raise ValueError(f"{name}: expected shape (B, *, 2), got {tuple(tensor.shape)}")
    check_shape("points", points, (queries.shape[0], points.shape[1], 2))
    check_same_device(queries=queries, points=points)
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"k: expected 1 up to {points.shape[1]}, the number of points, got {k}")
    return Arguments(queries.detach().float(), points.detach().float(), k)


knn_reference = knn.reference
