"""Random numbers that depend on a key alone: the same after a resume as in an unbroken run."""

import random

import numpy as np
import torch
from detectron2.utils import comm


def seed_random_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (all devices) from non-negative integers.

    Different keys give independent streams (``numpy.random.SeedSequence`` mixes them).
    """
    for_python, for_numpy, high, low = np.random.SeedSequence(key).generate_state(4).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002, augmentations draw from the global generator
    torch.manual_seed((high << 32) | low)


def resolve_seed(seed: int) -> int:
    """``seed`` itself, or where it is negative a random one on which all processes agree."""
    return seed if seed >= 0 else int(comm.shared_random_seed())
