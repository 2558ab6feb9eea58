"""What is recorded of the mask decoders' attention, and what the model tells of it."""

import dataclasses

import pytest
import torch

from panoptic_segformer.attention import recorded_attention
from panoptic_segformer.batching import OfficialPadding
from panoptic_segformer.mask_decoder import MaskDecoder
from segcore.inference import PanopticMerging

LEVELS = [(6, 8), (3, 4), (2, 2)]
TOKENS = 48 + 12 + 4

NUM_THING_QUERIES, THINGS, STUFF = 7, [1, 2, 4], [0, 3]


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
@torch.no_grad()
def test_a_map_for_each_query_and_block(self_attention):
    model = decoder(self_attention)
    expected = model(*inputs())
    with recorded_attention(model) as look_up:
        torch.testing.assert_close(model(*inputs()), expected)
    queries = look_up([3, 0])
    assert len(queries) == 2
    for blocks in queries:
        assert len(blocks) == 3
        for attention in blocks:
            assert attention.shape == (6, 8)
            assert (attention >= 0).all()
            assert attention.sum() == pytest.approx(1, rel=0.1)
    assert not torch.allclose(queries[0][0], queries[1][0])
    torch.testing.assert_close(look_up([0])[0], queries[1])
    assert look_up([]) == []


@torch.no_grad()
def test_recorded_is_what_the_block_reads():
    """With keys like one query's, all of its attention goes to one token, in the first block."""
    model = decoder(False)
    attention = model.layers[0].cross_attn
    queries, _, memory, spatial_shapes = inputs(num_queries=1)
    for projection in (attention.q, attention.k):
        projection.weight.copy_(torch.eye(16))
        projection.bias.zero_()
    memory[:, 10] = 100 * queries[:, 0].sign()
    with recorded_attention(model) as look_up:
        model(queries, None, memory, spatial_shapes)
    first, *_ = look_up([0])[0]
    assert first.flatten()[10] > 0.99


def test_nothing_is_recorded_afterwards():
    model = decoder(False)
    with pytest.raises(RuntimeError, match="stop"), recorded_attention(model) as look_up:
        raise RuntimeError("stop")
    model(*inputs())
    assert look_up([0]) == []


@pytest.fixture
def model(build_perturbed_model):
    """With 7 thing queries and 2 stuff classes, 1 and 2 blocks; images are padded."""
    return build_perturbed_model(size_divisibility=32)


def picture():
    """Its map of stride 8 has 6 x 9 cells, and the padded one 8 x 12."""
    return {"image": torch.rand(3, 45, 70, generator=torch.Generator().manual_seed(2)) * 255}


def test_named_queries_in_their_order(model):
    assert model.num_queries == NUM_THING_QUERIES + len(STUFF)
    numbers = [NUM_THING_QUERIES + 1, 4, NUM_THING_QUERIES, 0]
    queries = model.attention(picture(), numbers)
    assert [query.query for query in queries] == numbers
    assert [query.label for query in queries][::2] == [3, 0]
    assert {query.label for query in queries[1::2]} <= set(THINGS)
    assert [len(query.layers) for query in queries] == [2, 1, 2, 1]
    for query in queries:
        assert query.mask.shape == (6, 9) and 0 <= query.mask.min() and query.mask.max() <= 1
        assert all(attention.shape == (6, 9) for attention in query.layers)
    (alone,) = model.attention(picture(), [4])
    torch.testing.assert_close(alone, queries[1])


@pytest.mark.parametrize("strategy", ["mask_wise", "pixel_wise"])
@torch.no_grad()
def test_queries_of_the_segments_by_falling_score(model, monkeypatch, strategy):
    merging = PanopticMerging(
        strategy, quality_thresholds=(0.0, 0.0), overlap_thresholds=(0.8, 0.8), score_threshold=0.0
    )
    result_maker = dataclasses.replace(model.result_maker, merging=merging)
    monkeypatch.setattr(model, "result_maker", result_maker)
    inputs = {**picture(), "height": 6, "width": 9}
    _, segments = model([inputs])[0]["panoptic_seg"]
    queries = model.attention(inputs, count=100)
    assert len(queries) > 2
    assert sorted(query.label for query in queries) == sorted(s["category_id"] for s in segments)
    scores = [query.score for query in queries]
    assert scores == sorted(scores, reverse=True)
    assert [query.query for query in model.attention(inputs, count=2)] == [
        query.query for query in queries[:2]
    ]


@torch.no_grad()
def test_masks_and_scores_are_those_of_the_result(model):
    """At the size of the masks, and where every query has one class."""
    inputs = {**picture(), "height": 6, "width": 9}
    instances = model([inputs])[0]["instances"]
    queries = model.attention(inputs, range(NUM_THING_QUERIES))
    for query in queries:
        same = (instances.scores - query.score).abs() < 1e-6
        assert same.any()
        mask = instances.pred_masks[same.nonzero()[0, 0]]
        assert torch.equal(mask, query.mask > 0.5)


def test_maps_are_cut_to_the_image_where_padding_takes_part(build_perturbed_model):
    model = build_perturbed_model(size_divisibility=32, padding_policy=OfficialPadding())
    for query in model.attention(picture(), range(model.num_queries)):
        assert {attention.shape for attention in (*query.layers, query.mask)} == {(6, 9)}
