import pytest
import torch

from autofocusformer.block import Block, NeighborhoodAttention
from autofocusformer.clustering import nearest_clusters
from segcore.ops import ClusterNeighborhood


def test_attention_with_one_token_and_blank(scatter):
    """With one token, the output is a mixture of its value and the blank value."""
    torch.manual_seed(0)
    attention = NeighborhoodAttention(6, 2).double()
    tokens = scatter((1, 1), 1, 6, batch=1)
    x = tokens.features.double()
    actual = attention(x, tokens.positions, ClusterNeighborhood.global_attention(1, 1))

    query = attention.q(x).view(2, 3) * 3**-0.5
    key, value = attention.kv(x).view(2, 2, 3).unbind(1)
    logit = (query * key).sum(-1) + attention.pos_embed.bias
    blank = (query * attention.blank_k.view(2, 3)).sum(-1)
    share = (logit - blank).sigmoid()[:, None]
    mixed = share * value + (1 - share) * attention.blank_v.view(2, 3)
    torch.testing.assert_close(actual, attention.proj(mixed.view(1, 1, 6)))


def test_heads_divide_channels():
    with pytest.raises(ValueError, match="num_heads: expected a divisor of 10 channels, got 3"):
        NeighborhoodAttention(10, 3)


def test_layer_scale_only_where_asked(scatter):
    names = {name for name, _ in Block(8, 2, 2.0).named_parameters()}
    assert not names & {"gamma1", "gamma2"}
    block = Block(8, 2, 2.0, layer_scale=1e-5)
    assert torch.equal(block.gamma1, torch.full((8,), 1e-5))
    tokens = scatter((5, 6), 20, 8)
    _, neighborhood = nearest_clusters(tokens, cluster_size=4, neighborhood_size=8)
    torch.testing.assert_close(
        block(tokens, neighborhood).features, tokens.features, atol=1e-3, rtol=0
    )


def test_drop_path_drops_whole_samples(scatter):
    torch.manual_seed(0)
    block = Block(8, 2, 2.0, drop_path=0.5).train()
    tokens = scatter((4, 4), 16, 8, batch=32)
    out = block(tokens, ClusterNeighborhood.global_attention(32, 16)).features
    unchanged = (out == tokens.features).flatten(1)
    kept = unchanged.all(1)
    assert 0 < kept.sum() < 32
    assert not unchanged[~kept].any(1).all()
