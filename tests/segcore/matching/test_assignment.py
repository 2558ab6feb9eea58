"""Assignment: optimal, numbered over all images, clear about costs that are not finite."""

import itertools

import pytest
import torch

from segcore.matching import NonFiniteCostError, assign, assign_by_parts


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_assign_is_optimal():
    cost = torch.randn(5, 3, dtype=torch.float64)
    pairs = assign([[cost]])
    best = min(
        sum(cost[query, column].item() for column, query in enumerate(queries))
        for queries in itertools.permutations(range(5), 3)
    )
    assert cost[pairs.query[0], pairs.target[0]].sum().item() == pytest.approx(best)


def test_assign_numbers_targets_over_all_images():
    eye = 1 - torch.eye(3)
    costs = [[eye, eye[:, :0], eye[:, :2]], [eye.flip(0), eye[:, :0], eye[:, :2]]]
    pairs = assign(costs)
    assert pairs.image.tolist() == [[0, 0, 0, 2, 2]] * 2
    assert pairs.query.tolist() == [[0, 1, 2, 0, 1]] * 2
    assert pairs.target.tolist() == [[0, 1, 2, 3, 4], [2, 1, 0, 3, 4]]


def test_more_targets_than_queries():
    pairs = assign([[torch.rand(2, 7), torch.rand(2, 1)]])
    assert pairs.image.tolist() == [[0, 0, 1]]
    assert len(set(pairs.target[0].tolist())) == 3


def test_assign_names_level_and_image():
    good, bad = torch.zeros(2, 2), torch.full((2, 2), torch.inf)
    with pytest.raises(NonFiniteCostError, match="prediction 1, image 0"):
        assign([[good, good], [bad, bad]])


def test_images_may_have_different_numbers_of_queries():
    pairs = assign([[torch.rand(4, 4), torch.rand(1, 1), torch.rand(0, 0)]])
    assert pairs.image.tolist() == [[0, 0, 0, 0, 1]]
    assert pairs.query.tolist() == [[0, 1, 2, 3, 0]]
    assert pairs.target[0, 4] == 4


def by_parts(costs, labels):
    return assign_by_parts(costs, names=["first", "last"], labels=labels, num_classes=3)


def test_parts_are_summed():
    parts = [[{"class": torch.rand(5, 3), "box": torch.rand(5, 3)}] for _ in range(2)]
    expected = assign([[part["class"] + part["box"]] for (part,) in parts])
    for ours, theirs in zip(by_parts(parts, [torch.zeros(3)]), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_part_that_is_not_finite_is_named():
    zero, bad = torch.zeros(2, 2), torch.tensor([[0, torch.inf], [torch.nan, 0]])
    costs = [[{"class": zero, "box": zero}] * 2, [{"class": zero, "box": bad}] * 2]
    with pytest.raises(FloatingPointError, match=r"in last, image 0 .*: box cost 2 of 4\."):
        by_parts(costs, [torch.zeros(2)] * 2)
    with pytest.raises(ValueError, match=r"labels of image 0 .* expected 0 to 2 .*, got -1, 3"):
        by_parts(costs, [torch.tensor([3, -1]), torch.zeros(2)])
