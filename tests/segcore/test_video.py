"""Video files, frame by frame."""

import numpy as np
import pytest

from segcore.errors import ImageError, OutputError
from segcore.video import (
    Camera,
    VideoReader,
    VideoWriter,
    camera,
    is_camera_name,
    is_video_name,
    join_videos,
)

av = pytest.importorskip("av")


def frames(count: int, size=(36, 48)) -> list[np.ndarray]:
    """Grey pictures that become brighter, in which JPEG-like compression changes little."""
    return [np.full((*size, 3), 40 + 20 * number, dtype=np.uint8) for number in range(count)]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "film.mp4"
    with VideoWriter(path, 12) as writer:
        for frame in frames(5):
            writer.write(frame)
    reader = VideoReader(path)
    assert reader.rate == 12
    for _ in range(2):  # from the start each time
        read = list(reader)
        assert len(read) == 5
        for frame, expected in zip(read, frames(5), strict=True):
            assert frame.shape == expected.shape and frame.dtype == np.uint8
            assert np.abs(frame.astype(int) - expected).max() <= 4
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_odd_sides_are_cut(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 5) as writer:
        writer.write(frames(1, (37, 49))[0])
    (frame,) = VideoReader(tmp_path / "film.mp4")
    assert frame.shape == (36, 48, 3)


def test_no_file_is_left_after_an_error(tmp_path):
    message = r"expected .* \(36, 48, 3\) uint8, got \(36, 36, 3\)"
    with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / "a.mp4", 5) as writer:
        writer.write(frames(1)[0])
        writer.write(frames(1, (36, 36))[0])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "film.mp4", 5)


def test_unusable_files(tmp_path):
    with pytest.raises(ImageError, match=r"absent.mp4: cannot be read: No such file"):
        VideoReader(tmp_path / "absent.mp4")
    with pytest.raises(ImageError, match="expected a video file"):
        VideoReader(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match=r"text.mp4: expected a video file"):
        VideoReader(tmp_path / "text.mp4")
    with VideoWriter(tmp_path / "film.mp4", 5) as writer:
        writer.write(frames(1)[0])
    with pytest.raises(ImageError, match=r"at most 100 pixels .* got 48 x 36"):
        list(VideoReader(tmp_path / "film.mp4", max_pixels=100))


def test_a_playlist_opens_no_other_file(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 5) as writer:
        writer.write(frames(1)[0])
    playlist = f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'film.mp4'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(ImageError):
        list(VideoReader(tmp_path / "list.mp4"))


def test_names_of_videos():
    assert is_video_name("a/B.MP4") and not is_video_name("a.jpg")
    assert is_camera_name("webcam:0") and not is_camera_name("webcam:-1")


def test_some_frames_with_their_times(tmp_path):
    times = [0, 0.04, 0.5, 0.52, 3]
    with VideoWriter(tmp_path / "film.mp4", 25) as writer:
        for frame, time in zip(frames(5), times, strict=True):
            writer.write(frame, time)
    reader = VideoReader(tmp_path / "film.mp4")
    assert reader.num_frames == 5
    assert [round(frame.time, 6) for frame in reader.frames()] == times
    assert [(frame.number, frame.pixels[0, 0, 0] // 20) for frame in reader.frames(1, 2)] == [
        (1, 3),
        (3, 5),
    ]


def test_joined_videos_have_all_frames_at_their_times(tmp_path):
    parts = [(0, tmp_path / "0.mp4"), (0.3, tmp_path / "1.mp4"), (1.0, tmp_path / "2.mp4")]
    for (_, part), count in zip(parts, (3, 2, 1), strict=True):
        with VideoWriter(part, 10) as writer:
            for frame in frames(count):
                writer.write(frame)
    join_videos(parts, tmp_path / "film.mp4")
    times = [round(frame.time, 6) for frame in VideoReader(tmp_path / "film.mp4").frames()]
    assert times == [0, 0.1, 0.2, 0.3, 0.4, 1.0]
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "1.mp4").write_text("no video")
    with pytest.raises(OutputError, match=r"film.mp4: cannot be written"):
        join_videos(parts, tmp_path / "film.mp4")


def test_a_turned_video_is_read_upright(tmp_path):
    path = tmp_path / "film.mp4"
    frame = np.zeros((36, 48, 3), np.uint8)
    frame[:, :24] = 200  # bright on the left
    with VideoWriter(path, 5) as writer:
        writer.write(frame)
    content = path.read_bytes()
    # The matrix of the track's header, 16.16 fixed point: turned by 90 degrees clockwise.
    upright, turned = (
        np.array(matrix, ">i4").tobytes()
        for matrix in (
            (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30),
            (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30),
        )
    )
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(upright, turned, 1))
    (read,) = VideoReader(path)
    assert read.shape == (48, 36, 3)
    assert read[:24].mean() > 150 and read[24:].mean() < 50  # bright at the top


def test_files_without_usable_pictures(tmp_path):
    path = tmp_path / "film.mp4"
    with VideoWriter(path, 5) as writer:
        writer.write(frames(1)[0])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"avc1", b"zzz1"))
    with pytest.raises(ImageError, match="expected a codec that FFmpeg decodes, got an unknown"):
        VideoReader(path)
    path.write_bytes(content[: content.index(b"moov")])
    with pytest.raises(ImageError, match="expected a video file, complete to its end"):
        VideoReader(path)

    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"sound.mp4: .* got one without pictures"):
        VideoReader(sound)

    empty = tmp_path / "empty.avi"
    with av.open(str(empty), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        container.start_encoding()
    with pytest.raises(ImageError, match=r"empty.avi: expected frames, got none"):
        list(VideoReader(empty))


def test_cameras(monkeypatch):
    with pytest.raises(ImageError, match=r"webcam:99: this camera cannot be opened: No such file"):
        Camera("webcam:99")
    monkeypatch.setattr(camera, "_device", lambda name: ("testsrc=size=48x36:rate=10", "lavfi"))
    stream = Camera("webcam:0").frames(1, 2)
    first, second = next(stream), next(stream)
    assert (first.number, second.number) == (1, 3) and first.pixels.shape == (36, 48, 3)
    assert second.time - first.time == pytest.approx(0.2)
    with pytest.raises(ImageError, match="at most 100 pixels"):
        next(Camera("webcam:0", max_pixels=100).frames())
    monkeypatch.undo()
    monkeypatch.setattr(camera.sys, "platform", "plan9")
    with pytest.raises(ImageError, match="cameras are read on Linux and macOS, not on plan9"):
        Camera("webcam:0")
