"""The CUDA kernels of the search for neighbors, lane by lane on the CPU: exactly as the twin."""

import pytest
import torch

from operator_inputs import knn_inputs
from segcore.ops import knn_reference


@pytest.mark.parametrize("k", [1, 4, 6, 8, 9, 17, 60])
@pytest.mark.parametrize(
    "kind", ["scattered", "grid", "flat", "one point", "dense corner", "far away", "small offsets"]
)
def test_matches_twin(on_host, kind, k):
    queries, points = knn_inputs(kind)
    assert torch.equal(on_host.knn(queries, points, k), knn_reference(queries, points, k))


@pytest.mark.parametrize("points", [1, 2, 7, 700])
@pytest.mark.parametrize("seed", range(4))
def test_sizes(on_host, points, seed):
    queries, positions = knn_inputs("grid" if seed % 2 else "scattered", 1, 200, points, seed)
    k = min(points, 1 + 3 * seed)
    assert torch.equal(on_host.knn(queries, positions, k), knn_reference(queries, positions, k))


@pytest.mark.parametrize("place", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [7, 20])
def test_indices_stay_in_range_whatever_the_positions(on_host, k, place):
    queries, points = knn_inputs("scattered")
    queries[:, ::3, 0] = place
    queries[:, ::5, 1] = place
    points[0, ::4, 1] = place
    points[1] = place
    nearest = on_host.knn(queries, points, k)
    assert ((nearest >= 0) & (nearest < points.shape[1])).all()


@pytest.mark.parametrize("sizes", [{"queries": 0}, {"batch": 0}], ids=str)
def test_empty(on_host, sizes):
    queries, points = knn_inputs("scattered", **sizes)
    assert on_host.knn(queries, points, 3).shape == (*queries.shape[:2], 3)
