"""Balanced clustering and the nearest clusters of every token: exactly the official ones."""

import pytest
import torch

from parity.golden import first_number, parametrize_cases
from segcore.ops import (
    ClusterNeighborhood,
    balanced_clusters,
    balanced_clusters_reference,
    knn,
    knn_reference,
)


@pytest.mark.parametrize(
    ("cluster", "nearest"),
    [(balanced_clusters, knn), (balanced_clusters_reference, knn_reference)],
    ids=["public", "twin"],
)
@parametrize_cases("autofocusformer", "cluster_")
def test_clusters(case, cluster, nearest, comparison):
    info, arrays = case.info, case.arrays
    positions = torch.from_numpy(arrays["pos"]).float()[None]
    size, canvas = info["cluster_size"], (info["grid_height"], info["grid_width"])

    order, centers = cluster(positions, size, canvas)
    comparison.equal("order", order[0], arrays["order"])
    tolerance = first_number(info["tolerance"]["cluster_mean"])
    comparison.close("cluster_mean", centers[0], arrays["cluster_mean"], tolerance)

    ordered = positions[:, order[0]]
    clusters = nearest(ordered, centers, info["clusters_per_neighbourhood"])
    comparison.equal("nearest_clusters", clusters[0], arrays["nearest_clusters"])

    # Token r of cluster number r has the members of its own cluster, and only those.
    tokens, clusters = positions.shape[1], info["clusters"]
    own = torch.arange(clusters).repeat(-(-tokens // clusters))[:tokens].view(1, -1, 1)
    members, valid = ClusterNeighborhood(own, size).members()
    valid = torch.ones_like(members, dtype=torch.bool) if valid is None else valid
    comparison.equal("members", members[0, :clusters], arrays["members"])
    comparison.equal("member_valid", valid[0, :clusters], arrays["member_valid"])
    comparison.check()
