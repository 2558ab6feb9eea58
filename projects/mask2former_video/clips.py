"""Clips of a video: frames in a row."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Frame = TypeVar("Frame")


def overlapping_clips(
    frames: Iterable[Frame], length: int, overlap: int
) -> Iterator[tuple[int, list[Frame]]]:
    """Yield the first frame's number and the frames of clips that cover a video.

    Args:
        frames: read as they are needed; at most ``2 * length`` are held.
        length: frames of a clip; 0: the whole video is one. A shorter video is one clip.
        overlap: frames that a clip shares with the one before, fewer than ``length``. The last clip
            ends with the video, and may share more.
    """
    remaining = iter(frames)
    clip = list(islice(remaining, length or None))
    if clip:
        yield 0, clip
    start = 0
    while length and (fresh := list(islice(remaining, length - overlap))):
        start += len(fresh)
        clip = (clip + fresh)[-length:]
        yield start, clip
