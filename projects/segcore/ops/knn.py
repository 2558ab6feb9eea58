"""Nearest neighbours in the plane, exact in float32."""

import torch
from torch import Tensor

from ._checks import check_floating, check_same_device, check_shape
from ._library import is_compiled, register_operator

# Distances that the twin holds at a time.
_MAX_DISTANCES = 1 << 22


def knn(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """The k nearest points of every query, nearest first; of equally near points the lower index.

    The order is that of ``dx * dx + dy * dy``, every operation rounded to float32, without fused
    multiply-add: float32 decides what is equally near, so that the result is the same on every
    device. (In plain PyTorch under ``torch.compile`` this is up to its back end.) The square root
    is left out, since it would make neighbouring squares equal, not the same ones everywhere.
    Positions that are not finite have unspecified neighbours.

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
    queries, points = _prepare(queries, points, k)
    if not is_compiled("knn", queries.device.type):
        return _nearest(queries, points, k)
    return torch.ops.segcore.knn(queries, points, k)


def knn_reference(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """The same as :func:`knn` in plain PyTorch: the specification of the kernels."""
    return _nearest(*_prepare(queries, points, k), k)


def _prepare(queries: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    for name, tensor in (("queries", queries), ("points", points)):
        check_floating(name, tensor)
        if tensor.dim() != 3 or tensor.shape[-1] != 2:
            raise ValueError(f"{name}: expected shape (B, *, 2), got {tuple(tensor.shape)}")
    check_shape("points", points, (queries.shape[0], points.shape[1], 2))
    check_same_device(queries=queries, points=points)
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"k: expected 1 up to {points.shape[1]}, the number of points, got {k}")
    return queries.detach().float(), points.detach().float()


def _nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    batch, num_points, _ = points.shape
    chunk = max(1, _MAX_DISTANCES // max(1, batch * num_points))
    index = torch.arange(num_points, device=points.device)
    nearest = []
    for some in queries.split(chunk, dim=1):
        dx, dy = (some[:, :, None] - points[:, None]).unbind(-1)
        distance = dx * dx + dy * dy
        # The bits of non-negative floats are ordered as the floats are; the index breaks ties.
        key = distance.view(torch.int32).long() << 32 | index
        nearest.append(key.topk(k, largest=False).values & 0xFFFFFFFF)
    return torch.cat(nearest, dim=1)


def _fake(queries: Tensor, points: Tensor, k: int) -> Tensor:
    return queries.new_empty(*queries.shape[:2], k, dtype=torch.int64)


register_operator("knn", fake=_fake)
