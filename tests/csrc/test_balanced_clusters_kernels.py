"""The CUDA kernels of balanced clustering, run on the CPU: exactly as the twin."""

import pytest
import torch

from operator_inputs import tokens_on_canvas
from segcore.ops import balanced_clusters_reference


def assert_same(on_host, positions, cluster_size, canvas, per_image=False):
    actual = on_host.balanced_clusters(positions, cluster_size, canvas, per_image)
    expected = balanced_clusters_reference(positions, cluster_size, canvas, per_image=per_image)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("cluster_size", [1, 8, 24])
@pytest.mark.parametrize(
    ("canvas", "count"),
    [((31, 45), 700), ((64, 64), 4096), ((7, 90), 100), ((50, 3), 51), ((4, 4), 9), ((3, 9), 17)],
)
def test_matches_twin(on_host, canvas, count, cluster_size, per_image):
    assert_same(on_host, tokens_on_canvas(*canvas, count), cluster_size, canvas, per_image)


@pytest.mark.parametrize("seed", range(4))
def test_off_the_grid_and_outside_the_canvas(on_host, seed):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(2, 150, 2, generator=generator) * 20 + 15
    assert_same(on_host, positions, 1 + 3 * seed, (20 + seed, 40))


def test_a_single_patch(on_host):
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(3, 40, 2, generator=generator).round()  # equal ones, and -0
    assert_same(on_host, positions, 64, (5, 5))


@pytest.mark.parametrize("place", [torch.nan, torch.inf, -torch.inf])
def test_the_order_is_a_permutation_whatever_the_positions(on_host, place):
    positions = tokens_on_canvas(20, 20, 100)
    positions[0, ::7, 0] = place
    order, _ = on_host.balanced_clusters(positions, 8, (20, 20), False)
    assert torch.equal(order.sort(-1).values, torch.arange(100).expand(2, -1))


@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0)])
def test_empty(on_host, batch, count):
    assert_same(on_host, torch.zeros(batch, count, 2), 8, (10, 10))
