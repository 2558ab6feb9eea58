"""The switches of ablations."""

import pytest
import torch

from autofocusformer.block import NeighborhoodAttention
from autofocusformer.clustering import nearest_clusters
from segcore.config import get_cfg
from segcore.config.validation import validate_config
from segcore.errors import ConfigError

SWITCHES = {
    "BLANK_TOKEN": {"blank_token": False},
    "GRID_PRIOR": {"prior": False},
    "PLAIN_OFFSETS": {"plain_offsets": True},
    "CLUSTER_SIZE": {"cluster_size": 1},  # k nearest neighbors
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_forward_and_gradients(build_backbone, switch):
    images = torch.randn(2, 3, 96, 128)
    default = build_backbone()(images)
    backbone = build_backbone(**switch)
    features = backbone(images)
    assert [tokens.features.shape for tokens in features.values()] == [
        tokens.features.shape for tokens in default.values()
    ]
    last = features["res5"].features
    assert not torch.allclose(last, default["res5"].features)
    backbone.train()(images)["res5"].features.square().sum().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if "layers" in name}
    assert all(gradient is not None for gradient in gradients.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert ("layers.0.blocks.0.attn.blank_k" in gradients) == switch.get("blank_token", True)


def test_attention_without_blank_token(scatter):
    """Against a softmax over the members alone."""
    torch.manual_seed(0)
    attention = NeighborhoodAttention(6, 2, blank_token=False, plain_offsets=True).double()
    tokens = scatter((6, 8), 20, 6, batch=2)
    order, neighborhood = nearest_clusters(tokens, cluster_size=4, neighborhood_size=8)
    positions = tokens.positions.gather(1, order[..., None].expand(-1, -1, 2)).double()
    x = tokens.features.gather(1, order[..., None].expand(-1, -1, 6)).double()

    query = attention.q(x).unflatten(-1, (2, 3)) * 3**-0.5
    key, value = attention.kv(x).unflatten(-1, (2, 2, 3)).unbind(3)
    offsets = positions[:, None] - positions[:, :, None]
    bias = offsets @ attention.pos_embed.weight.T + attention.pos_embed.bias
    logits = torch.einsum("bnhc,bmhc->bnmh", query, key) + bias
    everyone = torch.arange(20).expand(2, 20)
    members, valid = neighborhood.members(everyone)
    seen = torch.zeros(2, 20, 20, dtype=torch.int64)
    seen.scatter_add_(2, members.long(), valid.long() if valid is not None else members * 0 + 1)
    weights = logits.masked_fill(~seen.bool()[..., None], -torch.inf).softmax(2)
    mixed = torch.einsum("bnmh,bmhc->bnhc", weights, value).flatten(2)
    torch.testing.assert_close(attention(x, positions, neighborhood), attention.proj(mixed))


def test_one_token_a_cluster_sees_its_nearest_neighbors(scatter):
    tokens = scatter((6, 8), 20, 6, batch=1)
    order, neighborhood = nearest_clusters(tokens, cluster_size=1, neighborhood_size=5)
    assert order is None
    members, _ = neighborhood.members(torch.arange(20)[None])
    distances = torch.cdist(tokens.positions, tokens.positions)
    nearest = distances.sort(-1).values[..., :5]
    torch.testing.assert_close(distances.gather(2, members.long()).sort(-1).values, nearest)


@pytest.mark.parametrize("key", ["BLANK_TOKEN", "GRID_PRIOR", "PLAIN_OFFSETS"])
def test_wrong_values(key):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.AFF[key] = 2
    with pytest.raises(ConfigError, match=rf"\AMODEL.AFF.{key}: expected True or False, got 2\Z"):
        validate_config(cfg)
