from itertools import pairwise

import pytest
import torch

from segcore.ops import ClusterNeighborhood

CLUSTERS = torch.tensor([[[0, 2], [1, 0], [2, 1], [1, 2], [0, 1]], [[2, 1], [0, 1]] * 2 + [[0, 2]]])


def test_members_of_part_filled_clusters():
    neighborhood = ClusterNeighborhood(CLUSTERS, 2)  # tokens 0 1 | 2 3 | 4
    members, valid = neighborhood.members()
    assert (neighborhood.num_tokens, neighborhood.num_clusters) == (5, 3)
    assert neighborhood.num_members == 4
    assert members[0].tolist() == [
        [0, 1, 4, 0],
        [2, 3, 0, 1],
        [4, 0, 2, 3],
        [2, 3, 4, 0],
        [0, 1, 2, 3],
    ]
    assert valid[0, :3].tolist() == [[True] * 3 + [False], [True] * 4, [True, False, True, True]]


def test_no_mask_where_all_clusters_are_full():
    members, valid = ClusterNeighborhood(CLUSTERS[:, :4] % 2, 2).members()
    assert valid is None
    assert members.shape == (2, 4, 4)


def test_inverse_lists():
    indices, offsets = ClusterNeighborhood(CLUSTERS, 2).inverse_lists()
    lists = [
        [image_indices[begin:end].tolist() for begin, end in pairwise(image_offsets)]
        for image_indices, image_offsets in zip(indices, offsets.tolist(), strict=True)
    ]
    assert lists == [[[0, 1, 4], [1, 2, 3, 4], [0, 2, 3]], [[1, 3, 4], [0, 1, 2, 3], [0, 2, 4]]]


def test_inverse_lists_are_built_once():
    neighborhood = ClusterNeighborhood(CLUSTERS, 2)
    assert neighborhood.inverse_lists()[0] is neighborhood.inverse_lists()[0]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_global_attention(tokens):
    neighborhood = ClusterNeighborhood.global_attention(2, tokens)
    members, valid = neighborhood.members()
    assert valid is None
    assert members.tolist() == [[list(range(tokens))] * tokens] * 2
    indices, offsets = neighborhood.inverse_lists()
    assert torch.equal(indices, torch.arange(tokens, dtype=torch.int32).expand(2, tokens))
    assert offsets.tolist() == [[0, tokens] if tokens else [0]] * 2


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
        ClusterNeighborhood(clusters, cluster_size)
