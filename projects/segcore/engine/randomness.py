"""Random streams determined by a key: a resumed run draws the same as an unbroken one."""

import os
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


def require_deterministic_algorithms() -> None:
    """Make equal runs equal to the bit on a GPU too, for the rest of the process.

    Operations of PyTorch that have no deterministic form raise a ``RuntimeError`` from now on. To
    be called before the first matrix product on a GPU: cuBLAS reads its setting then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
