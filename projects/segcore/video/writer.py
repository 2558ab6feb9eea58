"""Writing of video files."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from segcore.errors import OutputError
from segcore.requirements import require_av
from segcore.text import printable

LEAST_TICKS = 90_000  # a second
MAX_RATE = 1000.0


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
        self.rate = Fraction(min(max(rate, 1 / MAX_RATE), MAX_RATE)).limit_denominator(1001)
        # A frame at this rate lasts a whole number of ticks.
        self._ticks = self.rate.numerator * math.ceil(LEAST_TICKS / self.rate.numerator)
        self._partial = _partial(self.path)
        with _output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._partial), "w", format="mp4")
        self._stream = None
        self._last = -1  # ticks

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame.

        Args:
            time: in seconds from the start of the video, more than that of the frame before; by
                default at the rate of the video.

        Raises:
            ValueError: it has another size or type than the first.
            OutputError: the file cannot be written.
        """
        import av

        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._stream is None:
            self._stream = self._new_stream(height, width)
        expected = (self._stream.height, self._stream.width, 3)
        if (height, width, *frame.shape[2:]) != expected or frame.dtype != np.uint8:
            raise ValueError(
                f"frame: expected (height, width, 3) {expected} uint8, got {frame.shape} "
                f"{frame.dtype}"
            )
        pixels = np.ascontiguousarray(frame[:height, :width])
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.time_base, picture.duration = Fraction(1, self._ticks), int(self._ticks / self.rate)
        following = 0 if self._last < 0 else self._last + picture.duration
        picture.pts = following if time is None else max(round(time * self._ticks), self._last + 1)
        self._last = picture.pts
        with _output_errors(self.path):
            self._container.mux(self._stream.encode(picture))

    def _new_stream(self, height: int, width: int):
        stream = self._container.add_stream("libx264", rate=self.rate)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, self._ticks)
        stream.codec_context.max_b_frames = 0  # frames are stored in their order: join_videos
        return stream

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with _output_errors(self.path):
                if kind is None and self._stream is not None:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
                if kind is None and self._stream is not None:
                    os.replace(self._partial, self.path)
        finally:
            with suppress(OSError):
                self._partial.unlink()


def join_videos(parts: Sequence[tuple[float, Path]], path: str | Path) -> None:
    """Join videos of :class:`VideoWriter`, of one size, into one, without encoding them again.

    Args:
        parts: start in seconds and file of each, in order of time.
        path: file to make; one that is there is replaced.

    Raises:
        OutputError: a part cannot be read, or the file cannot be written.
    """
    import av

    path, partial = Path(path), _partial(Path(path))
    try:
        with _output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(partial), "w", format="mp4") as container:
                stream = None
                for start, part in parts:
                    with av.open(str(part)) as source:
                        if stream is None:
                            stream = container.add_stream_from_template(source.streams.video[0])
                        for packet in source.demux(video=0):
                            if packet.dts is None:  # the end
                                continue
                            shift = round(start / packet.time_base)
                            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                            packet.stream = stream
                            container.mux(packet)
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}-{os.getpid()}.partial.mp4")


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turn errors of files and of FFmpeg into one that names the video."""
    import av

    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"{printable(path)}: cannot be written: {error.strerror}") from error
