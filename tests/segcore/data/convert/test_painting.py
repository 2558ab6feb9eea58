"""Overlaps, crowds, stuff and components of a photo."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from segcore.data.convert.painting import HIDDEN, NO_PIXEL, Label, LabelMap, Region, Regions, paint
from segcore.errors import DataError

SIZE = (12, 20)
CAR, ROAD = 4, 9


def region(rows: slice, columns: slice, category_id: int = CAR, **options) -> Region:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[rows, columns] = 1
    return Region(mask_util.encode(mask), category_id, **options)


def painted(*regions: Region):
    return paint(Regions(list(regions)), SIZE, {CAR})


def test_the_smaller_is_on_top():
    small, large = region(np.s_[2:5], np.s_[2:6]), region(np.s_[:8], np.s_[:10])
    for regions in ((small, large), (large, small)):
        result = painted(*regions)
        assert [s["area"] for s in result.segments] == [80 - 12, 12]
        assert [s["bbox"] for s in result.segments] == [[0, 0, 10, 8], [2, 2, 4, 3]]
        assert (result.ids[2:5, 2:6] == 2).all()
        assert result.num_decided == 12
        assert not result.left_out


def test_the_z_order_outranks_the_area():
    small = region(np.s_[2:5], np.s_[2:6], z_order=0)
    result = painted(small, region(np.s_[:8], np.s_[:10], z_order=1.5))
    assert [s["area"] for s in result.segments] == [80]
    assert result.left_out == {HIDDEN: 1}
    assert (result.ids.max(), result.num_decided) == (1, 12)


def test_stuff_is_one_segment():
    result = painted(
        region(np.s_[:4], np.s_[:4], ROAD),
        region(np.s_[2:6], np.s_[2:6], ROAD, is_crowd=True),
        region(np.s_[8:], np.s_[:1], CAR, is_crowd=True),
    )
    assert [(s["category_id"], s["iscrowd"]) for s in result.segments] == [(ROAD, 0), (CAR, 1)]
    assert result.segments[0]["area"] == 28
    assert result.num_decided == 0  # between parts of one segment


def test_nothing():
    result = painted()
    assert (result.segments, result.ids.any(), result.num_decided) == ([], False, 0)
    result = painted(region(np.s_[:0], np.s_[:0]))
    assert (result.segments, result.left_out) == ([], {NO_PIXEL: 1})


def label_map() -> LabelMap:
    values = np.zeros(SIZE, dtype=np.int32)
    values[:2, :3], values[2, 3], values[6:, 10:] = 5, 5, 5  # touching by a corner; apart
    values[:, 18:] = 2
    return LabelMap(values, {5: Label(CAR), 2: Label(ROAD), 7: Label(ROAD)})


def test_things_of_a_map_are_a_crowd_or_components():
    result = paint(label_map(), SIZE, {CAR})
    assert [(s["category_id"], s["iscrowd"], s["area"]) for s in result.segments] == [
        (ROAD, 0, 24),
        (CAR, 1, 7 + 48),
    ]
    result = paint(label_map(), SIZE, {CAR}, components=True)
    assert sorted((s["category_id"], s["iscrowd"], s["area"]) for s in result.segments) == [
        (CAR, 0, 7),
        (CAR, 0, 48),
        (ROAD, 0, 24),
    ]
    np.testing.assert_array_equal(result.ids > 0, label_map().values > 0)


def test_errors():
    with pytest.raises(DataError, match="its annotation is 20 x 12, the photo 20 x 13"):
        paint(label_map(), (13, 20), {CAR})
    with pytest.raises(DataError, match=r"has 5000 segments, expected at most 4096"):
        painted(*[region(np.s_[:1], np.s_[:1])] * 5000)
    noise = np.zeros((200, 200), dtype=np.int32)
    noise[::2, ::2] = 1
    with pytest.raises(DataError, match="expected at most 4096"):
        paint(LabelMap(noise, {1: Label(CAR)}), noise.shape, {CAR}, components=True)
