"""Video files, frame by frame."""

import numpy as np
import pytest

from segcore.errors import ImageError, OutputError
from segcore.video import VideoReader, VideoWriter, is_video_name

pytest.importorskip("av")


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
