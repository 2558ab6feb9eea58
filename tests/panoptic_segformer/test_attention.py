"""What is recorded of the mask decoders' attention."""

import pytest
import torch

from panoptic_segformer.attention import recorded_attention
from panoptic_segformer.mask_decoder import MaskDecoder

LEVELS = [(6, 8), (3, 4), (2, 2)]
TOKENS = 48 + 12 + 4


def decoder(self_attention):
    torch.manual_seed(0)
    return MaskDecoder(
        16, num_layers=3, self_attention=self_attention, num_heads=2, feedforward_dim=8
    )


def inputs(num_queries=5):
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(1, num_queries, 16, generator=generator)
    return queries, None, torch.randn(1, TOKENS, 16, generator=generator), LEVELS


@pytest.mark.parametrize("self_attention", [False, True])
def test_a_map_for_each_block_and_query(self_attention):
    model = decoder(self_attention)
    expected = model(*inputs())
    with recorded_attention(model, [3, 0]) as maps:
        actual = model(*inputs())
    torch.testing.assert_close(actual, expected)
    assert [tuple(block.shape) for block in maps] == [(2, 6, 8)] * 3
    for block in maps:
        assert (block >= 0).all()
        torch.testing.assert_close(block.sum((1, 2)), torch.ones(2), rtol=0.1, atol=0)
    with recorded_attention(model, range(5)) as every:
        model(*inputs())
    for block, of_all in zip(maps, every, strict=True):
        torch.testing.assert_close(block, of_all[[3, 0]])
        assert not torch.allclose(block[0], block[1])


def test_first_block_reads_what_it_records():
    """The value of the only token with attention is what the query reads."""
    model = decoder(False)
    attention = model.layers[0].cross_attn
    queries, _, memory, levels = inputs(num_queries=1)
    with torch.no_grad():
        for projection in (attention.q, attention.k):
            projection.weight.copy_(torch.eye(16))
            projection.bias.zero_()
        memory[:, 10] = 100 * queries[:, 0].sign()
    with recorded_attention(model, [0]) as maps:
        model(queries, None, memory, levels)
    assert maps[0].flatten().argmax() == 10
    assert maps[0].max() > 0.99


def test_nothing_is_recorded_afterwards():
    model = decoder(False)
    with pytest.raises(RuntimeError, match="stop"), recorded_attention(model, [0]) as maps:
        raise RuntimeError("stop")
    model(*inputs())
    assert maps == []
