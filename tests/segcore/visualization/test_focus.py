"""Pictures of where tokens are."""

import numpy as np
import pytest
import torch

from segcore.visualization import draw_focus
from segcore.visualization.focus import CELL_WIDTH

GREY = np.full((60, 80, 3), 128, np.uint8)
INSIDE = torch.tensor([[20.0, 15.0], [60.0, 45.0]])


def cells(picture, count):
    """The pictures of the stages, cut out of their sheet, without title and caption."""
    margin = (picture.shape[1] - count * CELL_WIDTH) // (count + 1)
    height = CELL_WIDTH * 60 // 80
    top = np.flatnonzero((picture[:, margin + 1] < 100).all(-1))[0]
    lefts = [margin + number * (CELL_WIDTH + margin) for number in range(count)]
    return [picture[top : top + height, left : left + CELL_WIDTH] for left in lefts]


def test_dots_at_the_tokens_in_the_color_of_their_importance():
    stages = [(INSIDE, torch.tensor([0.1, 0.9])), (INSIDE[1:], None)]
    before = GREY.copy()
    chosen, last = cells(draw_focus(GREY, stages), 2)
    assert np.array_equal(GREY, before)
    scale = CELL_WIDTH / 80
    (low_x, low_y), (high_x, high_y) = (INSIDE * scale).long().tolist()
    low, high = chosen[low_y, low_x].astype(int), chosen[high_y, high_x].astype(int)
    assert high.sum() > low.sum() + 100  # brighter
    assert (last[high_y, high_x] > 250).all()
    assert (abs(last[low_y, low_x].astype(int) - 64) < 4).all()  # the dimmed photo


def test_tokens_outside_of_the_photo_are_left_out():
    outside = torch.tensor([[80.0, 10.0], [10.0, 60.0], [-1.0, 5.0]])
    importance = torch.tensor([0.5, 0.2, 0.4])
    both = torch.cat((INSIDE, outside)), torch.cat((torch.tensor([0.3, 0.6]), importance))
    expected = draw_focus(GREY, [(INSIDE, torch.tensor([0.3, 0.6]))])
    assert np.array_equal(draw_focus(GREY, [both]), expected)
    draw_focus(GREY, [(outside, importance)])  # none left


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([], "at least one"),
        ([(INSIDE, None), (INSIDE[:, :1], None)], r"stage 2.*\(2, 1\)"),
        ([(INSIDE, torch.zeros(3))], "stage 1.*3"),
    ],
)
def test_bad_stages_are_named(stages, problem):
    with pytest.raises(ValueError, match=problem):
        draw_focus(GREY, stages)
