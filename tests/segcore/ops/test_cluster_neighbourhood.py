from itertools import pairwise

import pytest
import torch

from segcore.ops import ClusterNeighbourhood

CLUSTERS = torch.tensor([[[0, 2], [1, 0], [2, 1], [1, 2], [0, 1]], [[2, 1], [0, 1]] * 2 + [[0, 2]]])


def test_members_of_part_filled_clusters():
    neighbourhood = ClusterNeighbourhood(CLUSTERS, 2)  # tokens 0 1 | 2 3 | 4
    members, valid = neighbourhood.members()
    assert (neighbourhood.num_tokens, neighbourhood.num_clusters) == (5, 3)
    assert neighbourhood.num_members == 4
    assert members[0].tolist() == [
        [0, 1, 4, 0],
        [2, 3, 0, 1],
        [4, 0, 2, 3],
        [2, 3, 4, 0],
        [0, 1, 2, 3],
    ]
    assert valid[0, :3].tolist() == [[True] * 3 + [False], [True] * 4, [True, False, True, True]]


def test_no_mask_where_all_clusters_are_full():
    members, valid = ClusterNeighbourhood(CLUSTERS[:, :4] % 2, 2).members()
    assert valid is None
    assert members.shape == (2, 4, 4)


def test_users_are_the_inverse():
    users, borders = ClusterNeighbourhood(CLUSTERS, 2).users()
    lists = [
        [of_image[begin:end].tolist() for begin, end in pairwise(border)]
        for of_image, border in zip(users, borders.tolist(), strict=True)
    ]
    assert lists == [[[0, 1, 4], [1, 2, 3, 4], [0, 2, 3]], [[1, 3, 4], [0, 1, 2, 3], [0, 2, 4]]]


def test_users_are_built_once():
    neighbourhood = ClusterNeighbourhood(CLUSTERS, 2)
    assert neighbourhood.users()[0] is neighbourhood.users()[0]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_of_all(tokens):
    neighbourhood = ClusterNeighbourhood.of_all(2, tokens)
    members, valid = neighbourhood.members()
    assert valid is None
    assert members.tolist() == [[list(range(tokens))] * tokens] * 2
    users, borders = neighbourhood.users()
    assert torch.equal(users, torch.arange(tokens, dtype=torch.int32).expand(2, tokens))
    assert borders.tolist() == [[0, tokens] if tokens else [0]] * 2


@pytest.mark.parametrize(
    ("clusters", "cluster_size", "error", "message"),
    [
        (CLUSTERS.float(), 2, TypeError, "clusters: expected an int32 or int64 tensor"),
        (CLUSTERS.tolist(), 2, TypeError, "clusters: expected an int32 or int64 tensor, got list"),
        (CLUSTERS[0], 2, ValueError, r"clusters: expected shape \(B, N, R\), got \(5, 2\)"),
        (CLUSTERS, 0, ValueError, "cluster_size: expected an integer of at least 1, got 0"),
        (CLUSTERS, 2.0, ValueError, "cluster_size: expected an integer of at least 1, got 2.0"),
    ],
)
def test_clear_errors(clusters, cluster_size, error, message):
    with pytest.raises(error, match=message):
        ClusterNeighbourhood(clusters, cluster_size)
