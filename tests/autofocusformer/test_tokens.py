import pytest
import torch

from autofocusformer.tokens import Tokens, grid_positions


def test_grid_is_row_by_row_as_x_and_y():
    expected = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert grid_positions((2, 3)).tolist() == expected
    cells = Tokens(torch.zeros(1, 6, 1), grid_positions((2, 3))[None], (2, 3)).cells
    assert cells.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_map_puts_each_token_into_its_cell(scatter):
    tokens = scatter((3, 4), 12, 5)
    dense = tokens.map()
    assert dense.shape == (2, 5, 3, 4)
    for image in range(2):
        x, y = tokens.positions[image].long().unbind(-1)
        assert torch.equal(dense[image, :, y, x].T, tokens.features[image])


def test_map_needs_every_cell(scatter):
    with pytest.raises(ValueError, match="one in each of 3 x 4 cells, got 11 tokens"):
        scatter((3, 4), 11, 5).map()
