"""Videos of moving shapes, with a model that sees them: films, records, resumption."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.data.panoptic_format import read_panoptic_png
from segcore.demo import tracked_video
from segcore.demo.tracked_videos import TrackingOptions, VideoTracking
from segcore.errors import ConfigError, DataError
from segcore.video import VideoReader, VideoWriter, camera

av = pytest.importorskip("av")

CATEGORIES = [
    {"id": 5, "name": "floor", "color": [90, 90, 90], "isthing": 0},
    {"id": 9, "name": "box", "color": [200, 30, 30], "isthing": 1},
]
SIZE = (48, 64)


def frames(count: int) -> list[np.ndarray]:
    """A bright box that moves over dark floor."""
    result = []
    for number in range(count):
        frame = np.full((*SIZE, 3), 30, np.uint8)
        frame[10:30, 4 * number : 4 * number + 20] = 220
        result.append(frame)
    return result


def film(path: Path, count: int = 8, rate: float = 8) -> Path:
    with VideoWriter(path, rate) as writer:
        for frame in frames(count):
            writer.write(frame)
    return path


def sees_the_box(frame):
    """Panoptic result of a frame, with another id of the box in each."""
    box = frame[..., 0] > 120
    number = 2 + int(box.argmax() % 7)
    ids = torch.from_numpy(np.where(box, number, 1))
    return {
        "panoptic_seg": (
            ids,
            [
                {"id": 1, "category_id": 0, "isthing": False},
                {"id": number, "category_id": 1, "isthing": True, "score": 0.75},
            ],
        )
    }


def tracking(output, predict=sees_the_box, **options):
    return VideoTracking(Path(output), predict, CATEGORIES, 10_000, TrackingOptions(**options))


def records(output, name="film"):
    return [json.loads(line) for line in (output / f"frames/{name}.jsonl").open()]


def test_a_film_its_records_and_pngs(tmp_path, capsys):
    output = tmp_path / "out"
    assert tracking(output, save_png=True).run([film(tmp_path / "film.mp4")]) == 0
    printed, errors = capsys.readouterr()
    assert "1 of 1 videos done" in printed and errors == ""
    assert [line.split() for line in printed.splitlines()[4:6]] == [
        ["box", "1", "8"],
        ["floor", "1", "8"],
    ]
    rows = records(output)
    assert [row["frame"] for row in rows] == list(range(8))
    assert [row["time"] for row in rows] == [number / 8 for number in range(8)]
    floor, box = rows[3]["segments"]
    assert (floor["id"], floor["category_id"], floor["category"]) == (1, 5, "floor")
    assert (box["id"], box["isthing"], box["score"]) == (2, True, 0.75)
    assert all(abs(a - b) <= 1 for a, b in zip(box["bbox"], [12, 10, 20, 20], strict=True))
    ids = read_panoptic_png(output / "panoptic/film/000003.png")
    assert (ids == 2).sum() == box["area"] and ids.shape == SIZE

    reader = VideoReader(output / "overlay/film.mp4")
    drawings = list(reader)
    assert reader.rate == 8 and np.array(drawings).shape == (8, *SIZE, 3)
    colors = np.array([drawings[t][25, 4 * t + 10] for t in (1, 6)], int)
    assert np.abs(colors[0] - colors[1]).max() <= 12  # stays on the box
    assert not (output / "partial/film").exists()


def test_every_nth_frame_and_uneven_times_keep_their_times(tmp_path):
    times = [0, 0.1, 0.2, 0.7, 0.8, 1.5]
    with VideoWriter(tmp_path / "film.mp4", 10) as writer:
        for frame, time in zip(frames(6), times, strict=True):
            writer.write(frame, time)
    output = tmp_path / "out"
    assert tracking(output, every=2).run([tmp_path / "film.mp4"]) == 0
    assert [row["time"] for row in records(output)] == [0, 0.2, 0.8]
    read = VideoReader(output / "overlay/film.mp4").frames()
    assert [round(frame.time, 4) for frame in read] == [0, 0.2, 0.8]


class Interrupted:
    """A model that is sent a signal at its nth frame."""

    def __init__(self, number, at):
        self.number, self.at, self.seen = number, at, 0

    def __call__(self, frame):
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), self.number)
        return sees_the_box(frame)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupted_run_goes_on(tmp_path, capsys, monkeypatch, number, error):
    monkeypatch.setattr(tracked_video, "PART_SECONDS", 0.0)  # each frame is a part
    videos = [film(tmp_path / "film.mp4"), film(tmp_path / "other.mp4", 2)]
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert tracking(whole).run(videos) == 0
    with pytest.raises(error):
        tracking(output, Interrupted(number, 3)).run(videos)
    assert not (output / "overlay").exists() and not (output / "frames").exists()
    assert len(list(VideoReader(output / "partial/film/2.mp4"))) == 1

    with pytest.raises(ConfigError, match=r"partial/film is of an interrupted run: .* --resume"):
        tracking(output).run(videos)
    with pytest.raises(ConfigError, match="made with every 1, expected the same, got 2"):
        tracking(output, resume=True, every=2).run(videos)
    (output / "partial/film/3.mp4").write_text("half written by a process that was killed")
    model = Interrupted(0, 0)
    assert tracking(output, model, resume=True).run(videos) == 0
    assert model.seen == 5 + 2
    assert records(output) == records(whole)
    first, second = (list(VideoReader(f / "overlay/film.mp4").frames()) for f in (whole, output))
    assert [frame.time for frame in first] == [frame.time for frame in second]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, second, strict=True))

    capsys.readouterr()
    assert tracking(output, model, resume=True).run(videos) == 0
    assert model.seen == 7 and capsys.readouterr().out.count("was done before") == 2


def test_a_process_that_is_killed_loses_the_last_part_only(tmp_path, monkeypatch):
    monkeypatch.setattr(tracked_video, "PART_SECONDS", 0.0)
    seen = []

    def predict(frame):
        seen.append(frame)
        if len(seen) == 4:
            raise KeyError("a bug")
        return sees_the_box(frame)

    video, output = film(tmp_path / "film.mp4"), tmp_path / "out"
    with pytest.raises(KeyError):
        tracking(output, predict).run([video])
    assert tracking(output, predict, resume=True).run([video]) == 0
    assert len(seen) == 4 + 5 and len(records(output)) == 8


def test_a_file_that_is_cut_off_gives_what_it_has_and_an_error(tmp_path, capsys):
    cut = tmp_path / "cut.mkv"
    whole = film(tmp_path / "film.mp4", 40, rate=4)
    with av.open(str(whole)) as source, av.open(str(cut), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    os.truncate(cut, cut.stat().st_size * 3 // 4)
    output = tmp_path / "out"
    assert tracking(output).run([cut]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"failed: {cut}: ") and "cut off" in errors
    rows = records(output, "cut")
    assert 0 < len(rows) < 40 and len(list(VideoReader(output / "overlay/cut.mp4"))) == len(rows)
    (entry,) = json.loads((output / "videos.json").read_text())["videos"]
    assert "cut off" in entry["error"]


def test_a_camera_ends_by_an_interrupt(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(camera, "_device", lambda name: ("testsrc=size=64x48:rate=10", "lavfi"))
    output = tmp_path / "out"
    model = Interrupted(signal.SIGINT, 3)
    assert tracking(output, model).run([Path("webcam:0")]) == 0
    assert len(records(output, "webcam:0")) == 3
    assert VideoReader(output / "overlay/webcam:0.mp4").rate == 10
    with pytest.raises(ConfigError, match="--resume: expected video files, got webcam:0"):
        tracking(output, resume=True).run([Path("webcam:0")])


def test_one_video_that_fails_is_one_line(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    videos = [Path("webcam:99"), tmp_path / "text.mp4", film(tmp_path / "film.mp4", 1)]
    assert tracking(tmp_path / "out").run(videos) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("failed: webcam:99: this camera cannot be opened")
    assert second.startswith(f"failed: {tmp_path}/text.mp4: expected a video file")


def test_videos_of_one_name_and_a_damaged_list(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    videos = [film(tmp_path / "a/film.mp4", 1), film(tmp_path / "b/film.mp4", 2)]
    output = tmp_path / "out"
    assert tracking(output).run(videos) == 0
    assert (len(records(output)), len(records(output, "film_2"))) == (1, 2)
    (output / "videos.json").write_text('{"videos": [3]}')
    with pytest.raises(DataError, match="expected the videos of an earlier run"):
        tracking(output, resume=True).run(videos)
