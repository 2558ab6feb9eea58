"""Random streams determined by a key: a resumed run draws the same as an unbroken one."""

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
    """Return ``seed``, or a random seed that all processes share if it is negative."""
    return seed if seed >= 0 else int(comm.shared_random_seed())
