"""Ids that stay on moving shapes."""

import json

import numpy as np
import pytest
import torch

from segcore.errors import DataError
from segcore.tracking import SegmentTracker

SKY, CAT, DOG = 0, 1, 2
SIZE = (40, 60)


def scene(*boxes, numbers=None):
    """A frame of sky below boxes (class, left, top, side), later ones in front.

    Segment ids are those of a model: shuffled, without relation to the frame before.
    """
    ids = np.full(SIZE, 7)
    segments = [{"id": 7, "category_id": SKY, "isthing": False}]
    numbers = numbers or range(len(boxes), 0, -1)
    for number, (label, left, top, side) in zip(numbers, boxes, strict=True):
        ids[top : top + side, max(left, 0) : max(left + side, 0)] = 10 * number
        segments.append({"id": 10 * number, "category_id": label, "isthing": True, "score": 0.5})
    present = [segment for segment in segments if (ids == segment["id"]).any()]
    return torch.from_numpy(ids), present


def track(tracker, *scenes):
    """Ids of the tracks at given pixels of each scene."""
    return [tracker.update(*frame) for frame in scenes]


def id_at(result, row, column):
    return int(result[0][row, column])


def test_things_keep_their_ids_and_stuff_is_one():
    frames = [scene((CAT, 3 * t, 2, 12), (DOG, 40, 2 * t, 10)) for t in range(8)]
    results = track(SegmentTracker(), *frames)
    cats = {id_at(result, 5, 3 * t + 5) for t, result in enumerate(results)}
    dogs = {id_at(result, 2 * t + 5, 45) for t, result in enumerate(results)}
    skies = {id_at(result, 39, 0) for result in results}
    assert sorted([cats, dogs, skies], key=min) == [{1}, {2}, {3}]
    for (ids, segments), (given_ids, given) in zip(results, frames, strict=True):
        assert ids.dtype == torch.int32 and ids.shape == SIZE
        for new, old in zip(segments, given, strict=True):
            assert torch.equal(ids == new["id"], given_ids == old["id"])
            assert {**new, "id": 0} == {**old, "id": 0}


def test_crossing_things_of_one_class_keep_their_ids():
    # In front goes one to the right, behind it one to the left, at another height.
    results = track(
        SegmentTracker(),
        *(scene((CAT, 45 - 3 * t, 12, 12), (CAT, 3 * t, 8, 12)) for t in range(15)),
    )
    behind, front = id_at(results[0], 15, 50), id_at(results[0], 15, 5)
    assert behind != front
    assert (id_at(results[-1], 22, 5), id_at(results[-1], 15, 50)) == (behind, front)
    assert all(set(ids.unique().tolist()) == {1, behind, front} for ids, _ in results)


def test_a_thing_that_is_hidden_returns_within_the_memory_only():
    seen, hidden = scene((CAT, 10, 10, 12)), scene((DOG, 5, 5, 25))
    for gap, same in ((3, True), (4, False)):
        tracker = SegmentTracker(memory=3)
        first, *_, last = track(tracker, seen, *[hidden] * gap, seen)
        assert (id_at(first, 15, 15) == id_at(last, 15, 15)) is same
        assert len(tracker._maps) <= 4


def test_a_thing_that_leaves_and_another_that_comes():
    leaving = [scene((CAT, 10 - 4 * t, 10, 14)) for t in range(7)]
    coming = [scene((CAT, 50 - 4 * t, 10, 14)) for t in range(5)]
    results = track(SegmentTracker(), *leaving, *coming)
    assert id_at(results[0], 15, 12) != id_at(results[-1], 15, 40)


def test_class_and_least_iou_decide():
    first = scene((CAT, 10, 10, 12))
    for second, min_iou, same in (
        (scene((DOG, 10, 10, 12)), 0.3, False),
        (scene((CAT, 16, 10, 12)), 0.33, True),  # IoU 1/3
        (scene((CAT, 16, 10, 12)), 0.34, False),
    ):
        before, now = track(SegmentTracker(min_iou=min_iou), first, second)
        assert (id_at(before, 15, 20) == id_at(now, 15, 20)) is same


def test_pairs_have_the_largest_sum_of_ious():
    # The right one now is nearest to the left before, with IoU 3/8; 1/3 and 2/9 are more.
    before = scene((CAT, 10, 10, 12), (CAT, 22, 10, 12))
    now = scene((CAT, 14, 10, 12), (CAT, 4, 10, 12))
    first, second = track(SegmentTracker(min_iou=0.1), before, now)
    assert id_at(first, 15, 12) == id_at(second, 15, 8)
    assert id_at(first, 15, 30) == id_at(second, 15, 20)


def test_a_saved_tracker_goes_on_as_if_nothing_had_been():
    frames = [
        scene((CAT, 3 * t, 2, 12), *[(DOG, 40, 2 * t, 10)] * (t not in (3, 4))) for t in range(9)
    ]
    expected = track(SegmentTracker(), *frames)
    for stop in (0, 4, 5):
        tracker, other = SegmentTracker(), SegmentTracker()
        track(tracker, *frames[:stop])
        other.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
        for (ids, segments), (wanted, rows) in zip(
            track(other, *frames[stop:]), expected[stop:], strict=True
        ):
            assert torch.equal(ids, wanted) and segments == rows


@pytest.mark.parametrize(
    ("rows", "fault"),
    [(2, "expected run lengths of 4 pixels in all, got 6"), (3, "expected masks of ")],
)
def test_damaged_masks_are_refused(rows, fault):
    tracker = SegmentTracker()
    track(tracker, scene((CAT, 2, 2, 12), (DOG, 40, 2, 10)))
    state = tracker.state_dict()
    state["things"][1]["mask"] = {"size": [rows, 2], "counts": "06"}  # six pixels
    with pytest.raises(DataError, match=fault):
        SegmentTracker().load_state_dict(state)


def test_frames_without_segments_and_bad_input():
    tracker = SegmentTracker()
    ids, segments = tracker.update(np.zeros(SIZE, np.int64), [])
    assert not ids.any() and segments == []
    tracker.update(*scene((CAT, 10, 10, 12)))
    with pytest.raises(ValueError, match="expected shape"):
        tracker.update(np.zeros((3, 4), np.int64), [])
    with pytest.raises(ValueError, match=r"min_iou: expected a number in \(0, 1\], got 0"):
        SegmentTracker(min_iou=0)
    with pytest.raises(ValueError, match="memory: expected at least 0, got -1"):
        SegmentTracker(memory=-1)
