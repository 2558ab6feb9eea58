"""Attention to several levels as one map."""

import torch

from segcore.inference import attention_maps

LEVELS = [(8, 12), (4, 6), (2, 3)]
SIZES = [96, 24, 6]


def test_one_level_is_the_mean_of_the_heads():
    weights = torch.rand(4, 3, 96)
    maps = attention_maps(weights, LEVELS[:1])
    torch.testing.assert_close(maps, weights.mean(0).unflatten(-1, (8, 12)))


def test_even_attention_is_flat_and_sums_up_to_one():
    """Whatever level it goes to."""
    for chosen in range(3):
        parts = [
            torch.full((2, 1, size), 1.0 / size if level == chosen else 0.0)
            for level, size in enumerate(SIZES)
        ]
        maps = attention_maps(torch.cat(parts, dim=-1), LEVELS)
        torch.testing.assert_close(maps, torch.full((1, 8, 12), 1 / 96))


def test_a_coarse_cell_is_spread_where_it_lies():
    weights = torch.zeros(1, 1, sum(SIZES))
    weights[..., -1] = 1  # the lower right cell of the coarsest level
    (attention,) = attention_maps(weights, LEVELS)
    assert attention[4:, 8:].sum() > 0.7
    assert attention[:4, :4].sum() == 0
    assert attention[-1, -1] == attention.max()


def test_no_queries():
    assert attention_maps(torch.zeros(8, 0, sum(SIZES)), LEVELS).shape == (0, 8, 12)
