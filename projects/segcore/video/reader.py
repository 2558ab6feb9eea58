"""Reading of video files."""

import os
import re
import stat
from collections.abc import Iterator
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segcore.errors import ImageError
from segcore.requirements import require_av
from segcore.text import printable

MAX_PIXELS = 128_000_000  # of a frame, as of a photo
DEFAULT_RATE = 25.0  # frames a second of a video that names none
LEAST_INTERVAL = 1e-3  # seconds between frames whose times are in wrong order
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
# Formats that play other files would open none: no protocol has this name.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}
# Matroska and WebM say the length of a stream in a tag, such as 00:00:05.000000000.
_MATROSKA_LENGTH = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)
# Files promise a little more than they have: frames that are dropped, a last one that lasts.
_MAX_MISSING = 0.05, 0.5  # share of the length, and seconds


class TimedFrame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0.
        time: in seconds; that of frame 0 is 0, later ones have more.
        pixels: (H, W, 3) uint8, RGB.
    """

    number: int
    time: float
    pixels: np.ndarray


def is_video_name(name: str | Path) -> bool:
    """Return whether a file name ends as those of videos do."""
    return str(name).lower().endswith(SUFFIXES)


class VideoReader:
    """The frames of a video file as (H, W, 3) uint8 RGB, turned as the file says.

    Iterating decodes one frame after the other, each time from the start; memory does not depend on
    the length.

    Args:
        path: a local file.
        max_pixels: refuse frames with more.

    Attributes:
        rate: frames a second on average, as the file says; 25 where it does not.
        num_frames: as the file says, None where it does not; may be wrong.

    Raises:
        ImageError: the file is missing, has no video that can be decoded, or too large frames.
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS):
        require_av()
        self.path = Path(path)
        self.max_pixels = max_pixels
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            self.rate = stream_rate(stream)
            length = _length(container) or (container.duration or 0) / 1e6
            self.num_frames = stream.frames or round(length * self.rate) or None

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.pixels for frame in self.frames())

    def frames(self, first: int = 0, step: int = 1) -> Iterator[TimedFrame]:
        """Yield the frames ``first``, ``first`` + ``step``, ...; those between are decoded only.

        Raises:
            ImageError: the file cannot be decoded or is cut off, has no frame, or one of another
                size than the first.
        """
        import av

        number, time = -1, 0.0
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            try:
                for number, time, frame in decode(container, str(self.path), self.max_pixels):
                    if number >= first and (number - first) % step == 0:
                        yield TimedFrame(number, time, rgb_pixels(frame))
            except av.error.FFmpegError as error:
                raise ImageError(
                    f"{printable(self.path)}: cannot be decoded after {number + 1} frames "
                    f"({time:.1f} s), damaged or cut off: {error.strerror}"
                ) from error
            if number < 0:
                raise ImageError(f"{printable(self.path)}: expected frames, got none")
            expected, got = _length(container), time + 1 / self.rate
            missing_share, missing_seconds = _MAX_MISSING
            if expected and expected - got > max(missing_share * expected, missing_seconds):
                raise ImageError(
                    f"{printable(self.path)}: expected {expected:.1f} s, got {got:.1f} s: the file "
                    "is cut off"
                )


def stream_rate(stream) -> float:
    """Return the frames a second of a stream of PyAV."""
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)


def decode(container, name: str, max_pixels: int) -> Iterator[tuple[int, float, Any]]:
    """Yield number, time in seconds and frame of PyAV of the first video stream of a container.

    Raises:
        ImageError: a frame has more pixels, or another size than the first; names ``name``.
        av.error.FFmpegError: the stream cannot be decoded.
    """
    stream = container.streams.video[0]
    start = size = None
    time = -LEAST_INTERVAL
    for number, frame in enumerate(container.decode(stream)):
        got = f"got {frame.width} x {frame.height}"
        if frame.width * frame.height > max_pixels:
            raise ImageError(
                f"{printable(name)}: expected frames of at most {max_pixels} pixels "
                f"(INPUT.MAX_PIXELS), {got}"
            )
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise ImageError(
                f"{printable(name)}: frame {number}: expected {size[0]} x {size[1]} as the first, "
                f"{got}"
            )
        if frame.time is None:
            stamp = time + 1 / stream_rate(stream) if number else 0.0
        else:
            start = frame.time if start is None else start
            stamp = frame.time - start
        time = max(stamp, time + LEAST_INTERVAL)
        yield number, time, frame


def rgb_pixels(frame) -> np.ndarray:
    """Return a frame of PyAV, turned as it says, as (H, W, 3) uint8 RGB."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


class _opened:
    """Context of a container of a regular file."""

    def __init__(self, path: Path):
        import av

        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ImageError(f"{printable(path)}: expected a video file")
            self._file = open(path, "rb")  # noqa: SIM115 closed with the container
        except OSError as error:
            raise ImageError(f"{printable(path)}: cannot be read: {error.strerror}") from error
        try:
            self._container = av.open(self._file, options=_NO_OTHER_FILES)
        except (av.error.FFmpegError, ValueError) as error:
            self._file.close()
            reason = getattr(error, "strerror", None) or error
            raise ImageError(
                f"{printable(path)}: expected a video file, complete to its end: {reason}"
            ) from error

    def __enter__(self):
        return self._container

    def __exit__(self, *exception: object) -> None:
        self._container.close()
        self._file.close()


def _video_stream(container, path: Path):
    if not container.streams.video:
        raise ImageError(f"{printable(path)}: expected a video file, got one without pictures")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ImageError(
            f"{printable(path)}: expected a codec that FFmpeg decodes, got an unknown one"
        )
    return stream


def _length(container) -> float | None:
    """Return the seconds of the pictures, as the file says; None where it does not."""
    stream = container.streams.video[0]
    if container.format.name == "avi" and stream.frames:  # the duration is that of what is there
        return stream.frames / stream_rate(stream)
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match = _MATROSKA_LENGTH.fullmatch(stream.metadata.get("DURATION", ""))
    return None if match is None else sum(map(mul, (3600, 60, 1), map(float, match.groups())))
