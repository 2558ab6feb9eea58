import pytest
import torch

from autofocusformer.clustering import nearest_clusters
from autofocusformer.tokens import Tokens, grid_positions
from segcore.ops import take


def test_every_token_sees_its_nearest_clusters(scatter):
    tokens = scatter((9, 11), 50, 1)
    order, neighborhood = nearest_clusters(tokens, cluster_size=4, neighborhood_size=12)
    assert torch.equal(order.sort(dim=1).values, torch.arange(50).expand(2, -1))
    assert neighborhood.clusters.shape == (2, 50, 3)
    positions = take(tokens.positions, order)
    centers = torch.stack([part.mean(1) for part in positions.split(4, dim=1)], dim=1)
    expected = torch.cdist(positions, centers).sort(dim=-1).values[..., :3]
    chosen = torch.stack([centers[image, neighborhood.clusters[image].long()] for image in (0, 1)])
    distances = (positions[:, :, None] - chosen).norm(dim=-1)
    torch.testing.assert_close(distances, expected)


def test_no_more_tokens_than_the_neighborhood_see_all(scatter):
    tokens = scatter((5, 5), 12, 1)
    order, neighborhood = nearest_clusters(tokens, cluster_size=4, neighborhood_size=12)
    assert order is None
    members, valid = neighborhood.members()
    assert torch.equal(members, torch.arange(12).expand(2, 12, -1)) and valid is None
    order, _ = nearest_clusters(scatter((5, 5), 13, 1), cluster_size=4, neighborhood_size=12)
    assert order is not None


@pytest.mark.parametrize(
    ("cluster_size", "neighborhood_size", "clusters"),
    [(8, 49, 6), (4, 10, 2), (4, 14, 4), (8, 3, 1), (1, 3, 3)],
)
def test_neighborhood_is_rounded_to_clusters(scatter, cluster_size, neighborhood_size, clusters):
    _, neighborhood = nearest_clusters(
        scatter((9, 9), 60, 1), cluster_size=cluster_size, neighborhood_size=neighborhood_size
    )
    assert neighborhood.clusters.shape[2] == clusters


def test_clusters_of_one_token_leave_the_order(scatter):
    tokens = scatter((9, 9), 30, 1)
    order, neighborhood = nearest_clusters(tokens, cluster_size=1, neighborhood_size=5)
    assert order is None
    clusters = torch.arange(30, dtype=torch.int32).expand(2, -1)
    assert torch.equal(neighborhood.clusters[..., 0], clusters)


def test_same_positions_are_clustered_once():
    positions = grid_positions((6, 10)).expand(3, -1, -1)
    tokens = Tokens(torch.zeros(3, 60, 1), positions, (6, 10))
    options = {"cluster_size": 8, "neighborhood_size": 24}
    order, neighborhood = nearest_clusters(tokens, **options)
    once_order, once = nearest_clusters(tokens, **options, same_positions=True)
    assert torch.equal(order, once_order)
    assert torch.equal(neighborhood.clusters, once.clusters)
