"""Choice of the frames of a training clip."""

import random

import numpy as np


def sample_frames(length: int, num_frames: int, max_distance: int, *, shuffle: bool) -> list[int]:
    """Choose a frame of a video at random, and others that are near.

    The first is drawn from ``random``, the others from ``numpy.random``; with ``shuffle`` their
    order from ``random``. (The official code draws the others with replacement, and fails for
    videos of one frame.)

    Args:
        length: frames of the video.
        num_frames: of the clip.
        max_distance: of the others from the first, in frames.

    Returns:
        Frame numbers, ascending but for ``shuffle``. Frames are repeated if there are too few.
    """
    reference = random.randrange(length)
    first, stop = max(0, reference - max_distance), min(length, reference + max_distance + 1)
    near = [frame for frame in range(first, stop) if frame != reference]
    enough = num_frames - 1 <= len(near)
    # With one other frame, replace=True gives the official draw, and changes nothing else.
    others = np.random.choice(  # noqa: NPY002 the generator of Detectron2's augmentations
        near or [reference], num_frames - 1, replace=num_frames == 2 or not enough
    )
    frames = sorted([reference, *others.tolist()])
    if shuffle:
        random.shuffle(frames)
    return frames
