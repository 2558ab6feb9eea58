"""Both matchings of thing queries: costs, matched queries, bad input."""

import logging

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou

from panoptic_segformer.criterion import PanopticSegFormerCriterion
from panoptic_segformer.location_decoder import LocationOutput
from panoptic_segformer_inputs import (
    LAYERS,
    MASK_SIZE,
    QUERIES,
    collected,
    location_of,
    targets_of,
    thing_masks_of,
)
from segcore.matching import focal_class_cost


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def criterion():
    return PanopticSegFormerCriterion()


def cost_of(logits, boxes, target) -> torch.Tensor:
    """(Q, n), of one layer and image."""
    height, width = target.image_size
    scale, true = torch.tensor([width, height, width, height]), target.boxes.double()
    corners = [box_convert(part, "cxcywh", "xyxy") * scale for part in (boxes, true)]
    return (
        2 * focal_class_cost(logits[:, target.labels])
        + 5 * torch.cdist(boxes, true, p=1)
        - 2 * generalized_box_iou(*corners)
    )


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (QUERIES + 2, 1), (0, 0)], ids=str)
def test_each_layer_and_image_is_matched_by_itself(criterion, counts):
    location, targets = location_of(), targets_of(counts, (1, 1))
    match = criterion.match(location, collected(targets))
    first = [0, counts[0]]
    for layer in range(LAYERS):
        for image, target in enumerate(targets):
            cost = cost_of(location.logits[layer][image], location.boxes[layer][image], target)
            query, column = linear_sum_assignment(cost.detach())
            pairs = match.assignment.image[layer] == image
            assert match.assignment.query[layer][pairs].tolist() == query.tolist()
            matched = match.assignment.target[layer][pairs] - first[image]
            assert matched.tolist() == column.tolist()
            if layer == LAYERS - 1:
                assert match.matched_queries[image].tolist() == sorted(query.tolist())
                total = sum(match.costs[image].values())
                torch.testing.assert_close(total, cost.detach()[match.matched_queries[image]])


def test_second_matching(criterion):
    targets = targets_of((4, 2), (0, 0))
    match = criterion.match(location_of(), collected(targets))
    masks = thing_masks_of(5)[-1].detach()
    true = [torch.rand(len(t.labels), *MASK_SIZE, dtype=torch.float64) for t in targets]
    pairs = criterion.matcher.match_masks(match, masks, true)
    for image, (parts, ours) in enumerate(zip(match.costs, true, strict=True)):
        cost = 2 * parts["class"] + parts["L1"] + parts["GIoU"]
        for row in range(len(cost)):
            for column, mask in enumerate(ours):
                area = masks[image, row].square().sum() + mask.square().sum() + 0.002
                overlap = (masks[image, row] * mask).sum()
                cost[row, column] += 2 * (1 - 2 * overlap / area)
        row, column = linear_sum_assignment(cost)
        mine = pairs.image[0] == image
        assert pairs.query[0][mine].tolist() == row.tolist()
        assert (pairs.target[0][mine] - 4 * image).tolist() == column.tolist()


def test_masks_can_overrule_the_boxes(criterion):
    targets = targets_of((2, 0), (0, 0))
    targets[0].labels[:] = 1
    targets[0].boxes[1] = targets[0].boxes[0] + 1e-3
    match = criterion.match(location_of(), collected(targets))
    true = [torch.eye(2, dtype=torch.float64)[:, None], torch.zeros(0, 1, 2, dtype=torch.float64)]
    for order in ([0, 1], [1, 0]):
        masks = true[0][order].expand(2, 2, 1, 2)
        pairs = criterion.matcher.match_masks(match, masks, true)
        assert pairs.query.tolist() == [[0, 1]] and pairs.target.tolist() == [order]


def test_no_gradient(criterion):
    location, targets = location_of(), targets_of((3, 2), (1, 1))
    match = criterion.match(location, collected(targets))
    assert not any(cost.requires_grad for parts in match.costs for cost in parts.values())


def test_more_things_than_queries_warns_once(criterion, caplog):
    queries = 5  # of this test alone: the process has been warned of others
    with caplog.at_level(logging.WARNING):
        criterion.match(location_of(queries=queries), collected(targets_of((queries, 2), (1, 1))))
        assert not caplog.records
        for more in (1, 2, 1):
            criterion.match(
                location_of(queries=queries), collected(targets_of((queries + more, 2), (1, 1)))
            )
    (record,) = caplog.records
    assert f"more things than there are queries ({queries})" in record.getMessage()


@pytest.mark.parametrize(
    ("part", "cost"), [("logits", "class cost 2 of 14"), ("boxes", "L1 cost 2 of 14, GIoU cost 2")]
)
def test_non_finite_prediction_is_named(criterion, part, cost):
    location = location_of()
    with torch.no_grad():
        getattr(location, part)[1][1, 3] = torch.nan
    expected = rf"in layer 1 of the location decoder, image 1 of the batch: {cost}"
    with pytest.raises(FloatingPointError, match=expected):
        criterion.match(location, collected(targets_of((3, 2), (1, 1))))


def test_non_finite_mask_is_named(criterion):
    targets = targets_of((3, 2), (1, 1))
    match = criterion.match(location_of(), collected(targets))
    masks = thing_masks_of(3)[-1].detach()
    masks[1, 0, 2, 2] = torch.inf
    true = [torch.ones(len(t.labels), *MASK_SIZE, dtype=torch.float64) for t in targets]
    with pytest.raises(FloatingPointError, match=r"final thing masks, image 1 .* dice cost 2"):
        criterion.matcher.match_masks(match, masks, true)


@pytest.mark.parametrize("label", [-1, 4, 255])
def test_label_out_of_range(criterion, label):
    targets = targets_of((3, 2), (1, 1))
    targets[1].labels[1] = label
    with pytest.raises(ValueError, match=rf"image 1 .* expected 0 to 3 \(4 classes\), got {label}"):
        criterion.match(location_of(), collected(targets))


def test_one_copy_to_the_host(criterion, monkeypatch):
    location, targets = location_of(), targets_of((3, 2), (1, 1))
    copies, cpu = [], torch.Tensor.cpu

    def counted(tensor):
        copies.append(tensor.shape)
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    criterion.match(location, collected(targets))
    assert copies == [(LAYERS * QUERIES * 5,)]


def test_boxes_alone_decide_where_classes_are_equal(criterion):
    targets = targets_of((4, 4), (0, 0))
    boxes = torch.full((2, QUERIES, 4), 0.01, dtype=torch.float64)
    for image, target in enumerate(targets):
        boxes[image, [5, 0, 3, 1]] = target.boxes
    location = LocationOutput([torch.zeros(2, QUERIES, 4)], [boxes], torch.zeros(2, QUERIES, 8))
    match = criterion.match(location, collected(targets))
    assert [kept.tolist() for kept in match.matched_queries] == [[0, 1, 3, 5]] * 2
    assert match.assignment.target.tolist() == [[1, 3, 2, 0, 5, 7, 6, 4]]
