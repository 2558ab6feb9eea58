import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from segcore.inference import run_lengths
from segcore.inference.run_lengths import RunLengthEncoder, mask_areas
from segcore.inference.windows import Window


def encode_by_windows(masks, rows, columns, *, skip_empty):
    _, height, width = masks.shape
    encoder = RunLengthEncoder(len(masks), (height, width))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            window = Window(slice(top, bottom), slice(left, right))
            part = masks[:, window.rows, window.columns]
            added = torch.ones(len(masks), dtype=torch.bool)
            if skip_empty:
                added = part.any(dim=(1, 2)) if len(masks) else added
                added |= encoder.open_masks(window)
            added = added.nonzero()[:, 0]
            encoder.add(added, part[added], window)
    return encoder.finish()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 17)])
@pytest.mark.parametrize("window", [(1, 1), (4, 5), (100, 100)])
@pytest.mark.parametrize("skip_empty", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_equals_pycocotools(monkeypatch, size, window, skip_empty, share):
    monkeypatch.setattr(run_lengths, "_PENDING_CHANGES", 20)
    masks = torch.rand(6, *size, generator=torch.Generator().manual_seed(0)) < share
    masks[0], masks[1] = False, True
    encoded = encode_by_windows(masks, *window, skip_empty=skip_empty)
    for mask, found in zip(masks, encoded, strict=True):
        expected = mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert found["counts"] == expected["counts"]
        assert list(found["size"]) == list(expected["size"])


def test_no_mask():
    assert encode_by_windows(torch.zeros(0, 4, 5, dtype=torch.bool), 2, 2, skip_empty=True) == []


@pytest.mark.parametrize("count", [0, 1, 300])
def test_areas_of_any_number_of_masks(count):
    pixels = np.zeros((5, 4, count), np.uint8, order="F")
    pixels[:3, 1:] = 1
    areas = mask_areas(mask_util.encode(pixels) if count else [])
    assert areas.dtype == np.int64
    assert areas.tolist() == [9] * count
