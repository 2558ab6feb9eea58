"""Run lengths and polygons, sound and hostile."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from segcore.data.convert.masks import polygons_to_rle, run_lengths_to_rle
from segcore.errors import DataError

SIZE = (9, 13)


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_compressed_run_lengths(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(side) for side in rng.integers(1, 400, 2))
        mask = np.asfortranarray(rng.random((height, width)) < share, dtype=np.uint8)
        rle = mask_util.encode(mask)
        ours = run_lengths_to_rle(
            {"size": [height, width], "counts": rle["counts"].decode()}, (height, width)
        )
        assert ours["counts"] == rle["counts"]


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        ([117], [13, 9], r"expected run lengths of size \[9, 13\]"),
        ([100], [9, 13], "of 117 pixels in all, got 100"),
        ([-1, 118], [9, 13], "expected run lengths as a text or integers"),
        ([2**40], [9, 13], "expected run lengths as a text or integers"),
        (None, [9, 13], "expected run lengths as a text or integers, got None"),
        ("", [9, 13], "expected compressed run lengths"),
        ("\0a", [9, 13], "expected compressed run lengths"),
        ("oooo", [9, 13], "expected compressed run lengths"),
        ("o" * 20 + "1", [9, 13], "expected compressed run lengths"),
        ("A", [9, 13], "of 117 pixels in all"),
    ],
)
def test_run_lengths_that_do_not_fit(counts, size, message):
    with pytest.raises(DataError, match=message):
        run_lengths_to_rle({"counts": counts, "size": size}, SIZE)


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 5, 5],
        [0, 0, 5, 5, 1],
        [0, 0, 5, 5, 1, "2"],
        [0, 0, 5, 5, 1, 1e300],
        [0, 0, 5, 5, 1, 10**30],
        [0, 0, 5, 5, 1, float("nan")],
        [0, 0, 5, 5, 1, 100],
        None,
        {"a": 1},
        "01234567",
    ],
)
def test_polygons_that_cannot_be_drawn(polygon):
    with pytest.raises(DataError, match="expected"):
        polygons_to_rle([polygon], SIZE)


def test_outlines_are_bounded(monkeypatch):
    monkeypatch.setattr("segcore.data.convert.masks.MAX_OUTLINE", 1000)
    with pytest.raises(DataError, match="outline of more than 1000 pixels"):
        polygons_to_rle([[0, 0, 12, 8] * 100], SIZE)


def test_a_point_somewhat_outside():
    rle = polygons_to_rle([[-3, -3, 16, -3, 16, 12, -3, 12]], SIZE)
    assert mask_util.decode(rle).all()
