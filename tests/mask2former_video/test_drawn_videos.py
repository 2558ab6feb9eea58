"""Drawn videos: the same for a seed, annotated as they are drawn."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from mask2former_video.drawn_videos import draw_video, generate
from mask2former_video.ytvis import load_ytvis
from segcore.errors import DataError


def test_a_seed_gives_the_same_video():
    first, second = (draw_video(np.random.default_rng(3), 3, (40, 56)) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[0].shape == (3, 40, 56, 3)
    masks = np.stack([mask for _, mask in first[1]])
    assert masks.sum(0).max() <= 1, "shapes hide each other"
    assert not np.array_equal(masks[:, 0], masks[:, 2]), "shapes move"


def test_annotations_fit_the_format(drawn, tmp_path):
    records = load_ytvis(drawn / "train/videos.json", drawn / "train/frames")
    assert [record["length"] for record in records] == [5] * 3
    data = json.loads((drawn / "train/videos.json").read_text())
    for annotation in data["annotations"]:
        for mask, area in zip(annotation["segmentations"], annotation["areas"], strict=True):
            assert area == (mask and mask_util.area(mask))
    # Drawn once; a folder of something else is left alone.
    before = (drawn / "train/videos.json").stat().st_mtime_ns
    generate(drawn, num_train=3, num_val=2, num_frames=5, size=(40, 56))
    assert (drawn / "train/videos.json").stat().st_mtime_ns == before
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="files of another origin"):
        generate(tmp_path)
