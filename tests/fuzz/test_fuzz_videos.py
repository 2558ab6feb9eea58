"""Damaged annotations of videos and video files: read, or refused by one clear error."""

from random import Random

import numpy as np
import pytest
import torch

from fuzz.fuzzing import mutated_bytes, mutated_document, run_cases, tree, write_json
from mask2former_video.evaluation import truth_of
from mask2former_video.ytvis import load_ytvis
from mask2former_video.ytvis_format import read_ytvis_json
from segcore.demo.film import PartialFilm
from segcore.demo.tracked_video import restored_frame
from segcore.errors import ConfigError, DataError, ImageError
from segcore.tracking import SegmentTracker
from segcore.video import VideoReader, VideoWriter

MAX_PIXELS = 100_000


@pytest.fixture(autouse=True)
def fewer_cases(monkeypatch):
    """Each takes milliseconds."""
    monkeypatch.setattr("fuzz.fuzzing.CASES", 200)


def test_damaged_annotations(tmp_path):
    document = {
        "videos": [{"id": 1, "height": 8, "width": 9, "file_names": ["a/0.jpg", "a/1.jpg"]}],
        "categories": [{"id": 1, "name": "one", "color": [1, 2, 3]}, {"id": 4, "name": "four"}],
        "annotations": [
            {
                "id": 1,
                "video_id": 1,
                "category_id": 4,
                "iscrowd": 0,
                "segmentations": [[[1, 1, 5, 1, 5, 5]], {"size": [8, 9], "counts": [0, 8, 64]}],
                "bboxes": [[1, 1, 4, 4], [0, 0, 1, 8]],
                "areas": [8, 8],
            }
        ],
    }
    path = tmp_path / "videos.json"

    def make(random: Random):
        return mutated_document(document, random)

    def use(content) -> None:
        write_json(content, path)
        assert all(len(r["annotations"]) == r["length"] for r in load_ytvis(path, tmp_path))
        truth_of(read_ytvis_json(path))

    run_cases("annotations of videos", make, use, DataError)
    assert tree(tmp_path) == {"videos.json"}


def test_damaged_video_files(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with VideoWriter(path, 5) as writer:
        for level in (0, 200):
            writer.write(np.full((16, 16, 3), level, dtype=np.uint8))
    sound = path.read_bytes()

    def make(random: Random) -> bytes:
        return mutated_bytes(sound, random)

    def use(content: bytes) -> None:
        path.write_bytes(content)
        for frame in VideoReader(path, MAX_PIXELS):
            assert frame.dtype == np.uint8 and frame[..., 0].size <= MAX_PIXELS

    run_cases("video file", make, use, ImageError)
    assert tree(tmp_path) == {"film.mp4"}


def test_damaged_states_of_interrupted_videos(tmp_path):
    ids = torch.tensor([[1, 1, 2], [0, 2, 2]])
    tracker = SegmentTracker()
    tracker.update(ids, [{"id": i, "category_id": 0, "isthing": i == 2} for i in (1, 2)])
    document = {
        "settings": {"every": 1},
        "starts": [0.0, 1.5],
        "state": {"next_frame": 7, "tracker": tracker.state_dict()},
    }
    film = PartialFilm(tmp_path, {"every": 1})

    def make(random: Random):
        return mutated_document(document, random)

    def use(content) -> None:
        write_json(content, tmp_path / "state.json")
        film.restore()
        if film.state is not None:
            assert restored_frame(film, SegmentTracker(), MAX_PIXELS) >= 0

    run_cases("state of a video", make, use, (ConfigError, DataError))
    assert tree(tmp_path) == {"state.json"}
