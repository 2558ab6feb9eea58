"""Pictures of attention."""

import numpy as np
import pytest
import torch

from segcore.inference import QueryAttention
from segcore.visualization import draw_attention
from segcore.visualization.attention import CELL_WIDTH

GREY = np.full((60, 80, 3), 128, np.uint8)
HEIGHT = CELL_WIDTH * 60 // 80
MARGIN = 12
CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 187, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
]
LEFT = torch.tensor([[1.0, 0.0]])
RIGHT = torch.tensor([[0.0, 1.0]])


def query(*layers, mask=LEFT, label=0):
    return QueryAttention(query=3, label=label, score=0.5, layers=layers, mask=mask)


def row(picture, number, columns):
    """The pictures of a row of the sheet, found by the photo at its beginning."""
    photo = (picture[:, MARGIN : MARGIN + CELL_WIDTH] == 128).all((1, 2))
    tops = np.flatnonzero(np.diff(photo.astype(int), prepend=0) == 1)
    rows = slice(tops[number], tops[number] + HEIGHT)
    lefts = [MARGIN + column * (CELL_WIDTH + MARGIN) for column in range(columns)]
    return [picture[rows, left : left + CELL_WIDTH].astype(int) for left in lefts]


def halves(picture):
    """Brightness at the left and at the right edge."""
    return picture[:, :9].mean(), picture[:, -9:].mean()


def test_mask_and_layers_over_the_photo():
    before = GREY.copy()
    picture = draw_attention(GREY, [query(LEFT, 1e-6 * RIGHT)], CATEGORIES)
    assert np.array_equal(GREY, before)
    photo, mask, first, second = row(picture, 0, 4)
    assert (photo == 128).all()
    assert halves(mask) == pytest.approx((128, 128 * 0.2), abs=1)
    for layer, (high, low) in ((first, halves(first)), (second, halves(second)[::-1])):
        assert high > low + 50
        assert layer[..., 0].max() > layer[..., 2].max() + 50  # yellow


def test_layers_that_a_query_lacks_are_empty():
    picture = draw_attention(GREY, [query(LEFT), query(LEFT, RIGHT, LEFT, label=1)], CATEGORIES)
    assert picture.shape[1] == MARGIN + 5 * (CELL_WIDTH + MARGIN)
    *shown, fourth, fifth = row(picture, 0, 5)
    assert all((cell < 250).all() for cell in shown)
    assert (fourth == 255).all() and (fifth == 255).all()
    assert all((cell < 250).all() for cell in row(picture, 1, 5))


def test_maps_of_any_size_that_may_be_zero_or_above_one():
    for size in ((1, 1), (200, 300), (7, 5)):
        draw_attention(GREY, [query(torch.zeros(size), mask=3 * torch.ones(size))], CATEGORIES)
    photo, mask, _ = row(draw_attention(GREY, [query(LEFT, mask=3 * LEFT)], CATEGORIES), 0, 3)
    assert mask.max() == photo.max()


def test_class_and_score_stand_below(monkeypatch):
    captions = []
    monkeypatch.setattr(
        "segcore.visualization.attention.sheet", lambda *arguments, **_: captions.append(arguments)
    )
    draw_attention(GREY, [query(LEFT, label=1)], CATEGORIES)
    ((_, titles, texts),) = captions
    assert titles == ["photo", "mask", "layer 1"]
    assert texts == ["query 3: sky, score 0.50"]


def test_no_query():
    with pytest.raises(ValueError, match="queries: expected at least one"):
        draw_attention(GREY, [], CATEGORIES)
