"""Reading and writing of video files, frame by frame, by PyAV (FFmpeg)."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from segcore.errors import ImageError, OutputError
from segcore.requirements import require_av
from segcore.text import printable

MAX_PIXELS = 128_000_000  # of a frame, as of a photo
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
# Formats that play other files would open none: no protocol has this name.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}


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
        rate: frames a second, as the file says; 25 where it does not.

    Raises:
        ImageError: the file is missing, has no video that can be decoded, or too large frames.
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS):
        require_av()
        self.path = Path(path)
        self.max_pixels = max_pixels
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            self.rate = float(stream.average_rate or stream.guessed_rate or 25)

    def __iter__(self) -> Iterator[np.ndarray]:
        import av

        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    if frame.width * frame.height > self.max_pixels:
                        raise ImageError(
                            f"{printable(self.path)}: expected frames of at most {self.max_pixels} "
                            f"pixels (INPUT.MAX_PIXELS), got {frame.width} x {frame.height}"
                        )
                    pixels = frame.to_ndarray(format="rgb24")
                    yield np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
            except av.error.FFmpegError as error:
                raise ImageError(
                    f"{printable(self.path)}: cannot be decoded: {error.strerror}"
                ) from error


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
            raise ImageError(f"{printable(path)}: expected a video file: {reason}") from error

    def __enter__(self):
        return self._container

    def __exit__(self, *exception: object) -> None:
        self._container.close()
        self._file.close()


def _video_stream(container, path: Path):
    if not container.streams.video:
        raise ImageError(f"{printable(path)}: expected a video file, got one without pictures")
    return container.streams.video[0]


class VideoWriter:
    """Writer of an MP4 (H.264) of frames (H, W, 3) uint8 RGB of one size; a context.

    The file gets its name when the context is left without an error. An odd side is cut by a pixel,
    as the format has even ones.

    Args:
        path: file to make; one that is there is replaced.
        rate: frames a second.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: str | Path, rate: float):
        require_av()
        import av

        self.path = Path(path)
        self.rate = rate
        self._partial = self.path.with_name(f".{self.path.stem}-{os.getpid()}.partial.mp4")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._partial), "w", format="mp4")
        except OSError as error:
            raise OutputError(f"{printable(path)}: cannot be written: {error.strerror}") from error
        self._stream = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Raises:
            ValueError: it has another size or type than the first.
        """
        import av

        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=round(self.rate) or 1)
            self._stream.height, self._stream.width = height, width
            self._stream.pix_fmt = "yuv420p"
        expected = (self._stream.height, self._stream.width, 3)
        if (height, width, *frame.shape[2:]) != expected or frame.dtype != np.uint8:
            raise ValueError(
                f"frame: expected (height, width, 3) {expected} uint8, got {frame.shape} "
                f"{frame.dtype}"
            )
        pixels = np.ascontiguousarray(frame[:height, :width])
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self._stream is not None:
                os.replace(self._partial, self.path)
        except OSError as failure:
            raise OutputError(
                f"{printable(self.path)}: cannot be written: {failure.strerror}"
            ) from failure
        finally:
            with suppress(OSError):
                self._partial.unlink()
