"""Rules of the metric that no golden case pins, by hand."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from mask2former_video.metric import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    Track,
    match_tracks,
    mean_area,
    measure_tracks,
    track_ious,
)

SIZE = (10, 40)


def box(x: int, width: int = 10, rows: int = 10) -> dict:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[:rows, x : x + width] = 1
    return mask_util.encode(mask)


def track(*frames, **options) -> Track:
    return Track(1, 1, frames, **options)


def test_overlap_is_summed_over_frames_and_null_frames_are_empty():
    results = [track(box(0), None, box(0)), track(None, None, None)]
    truth = [track(box(5), box(0), None), track(None, None, None)]
    expected = [[50 / (150 + 100 + 100), 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(track_ious(results, truth), expected, atol=1e-15)
    assert track_ious([], truth).shape == (0, 2)


def test_of_equal_overlaps_the_later_track_is_taken():
    truth = [track(box(0), is_crowd=False), track(box(0))]
    matches = match_tracks([track(box(0), score=0.9), track(box(0), score=0.8)], truth)
    assert matches.matched.all() and not matches.ignored[0].any()
    # An area outside of the range makes the later one ignored; the first that counts goes first.
    truth = [track(box(0), area=100), track(box(0), area=1e6)]
    matches = match_tracks([track(box(0), score=0.9), track(box(0), score=0.8)], truth)
    small = list(AREA_RANGES).index("small")
    assert matches.num_truth[small] == 1
    assert matches.ignored[small].tolist() == [[False, True]] * len(IOU_THRESHOLDS)


def test_an_ignored_track_is_not_taken_where_another_counts():
    crowd, counts = track(box(0), is_crowd=True), track(box(1))
    matches = match_tracks([track(box(0), score=0.5)], [crowd, counts])
    overlap = 90 / 110  # with the one that counts; 1 with the crowd
    ignored = matches.ignored[0, :, 0]
    assert ignored.tolist() == [threshold > overlap for threshold in IOU_THRESHOLDS]


def test_any_number_of_results_match_a_crowd():
    results = [track(box(0), score=score) for score in (0.9, 0.8, 0.7)]
    matches = match_tracks(results, [track(box(0), is_crowd=True)])
    assert matches.matched.all() and matches.ignored.all() and not matches.num_truth.any()


@pytest.mark.parametrize(
    ("area", "ranges"), [(128**2, [0, 1, 2]), (256**2, [0, 2, 3]), (0, [0, 1])]
)
def test_both_ends_of_an_area_range_are_inside(area, ranges):
    matches = match_tracks([], [track(box(0), area=area)])
    assert np.flatnonzero(matches.num_truth).tolist() == ranges


def test_unmatched_results_outside_of_a_range_are_ignored():
    matches = match_tracks([track(box(0), score=0.5)], [])
    assert matches.ignored[:, 0, 0].tolist() == [False, False, True, True]


def test_area_is_the_mean_over_the_frames_that_show_the_track():
    assert mean_area([None, 0, 4, 8]) == 6 and mean_area([None]) == 0


def test_perfect_and_empty_results():
    truth = [track(box(0)), Track(2, 1, [box(3)]), Track(2, 7, [box(20)])]
    results = [Track(t.video_id, t.category_id, t.segmentations, score=0.5) for t in truth]
    stats = measure_tracks(results, truth, [1, 7, 9]).stats()
    assert stats["AP"] == pytest.approx(1) and stats["AR1"] == 1 and stats["APm"] == -1
    metric = measure_tracks([], truth, [1, 7, 9])
    assert metric.stats()["AP"] == 0 and metric.category_precision() == [0, 0, -1]
    assert measure_tracks([], [], [1]).stats()["AP"] == -1
