"""Frames of a camera of this machine."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from segcore.errors import ImageError
from segcore.requirements import require_av
from segcore.video.reader import MAX_PIXELS, TimedFrame, decode, rgb_pixels, stream_rate

_NAME = re.compile(r"webcam:(\d{1,3})", re.ASCII)
# Name and FFmpeg's format of a camera, by the system.
_DEVICES = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}


def is_camera_name(name: str | Path) -> bool:
    """Return whether a name stands for a camera, such as webcam:0."""
    return _NAME.fullmatch(str(name)) is not None


class Camera:
    """The frames of a camera as (H, W, 3) uint8 RGB, without end; on Linux and macOS.

    The system holds some frames back for a reader that is slower than the camera, and drops others:
    the times of the frames tell.

    Args:
        name: such as webcam:0, the first camera.
        max_pixels: refuse frames with more.

    Attributes:
        rate: frames a second.
        num_frames: None, there is no last one.

    Raises:
        ImageError: there is no such camera, or it is in use.
    """

    num_frames = None

    def __init__(self, name: str | Path, max_pixels: int = MAX_PIXELS):
        require_av()
        import av

        self.name = str(name)
        self.max_pixels = max_pixels
        try:
            device, format = _device(self.name)
            self._container = av.open(device, format=format)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{self.name}: this camera cannot be opened: {reason}") from error
        self.rate = stream_rate(self._container.streams.video[0])

    def frames(self, first: int = 0, step: int = 1) -> Iterator[TimedFrame]:
        """Yield the frames ``first``, ``first`` + ``step``, ... from now on; only once.

        Raises:
            ImageError: the camera is gone.
        """
        import av

        with self._container:
            try:
                for number, time, frame in decode(self._container, self.name, self.max_pixels):
                    if number >= first and (number - first) % step == 0:
                        yield TimedFrame(number, time, rgb_pixels(frame))
            except av.error.FFmpegError as error:
                raise ImageError(f"{self.name}: gives no more frames: {error.strerror}") from error


def _device(name: str) -> tuple[str, str]:
    """Return FFmpeg's name and format of a camera."""
    if sys.platform not in _DEVICES:
        raise ValueError(f"cameras are read on Linux and macOS, not on {sys.platform}")
    device, format = _DEVICES[sys.platform]
    return device.format(int(_NAME.fullmatch(name)[1])), format
