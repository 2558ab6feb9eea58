"""Normalizers of losses."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor


def mean_over_workers(counts: Sequence[int], like: Tensor) -> Tensor:
    """Average ``counts`` (n) of this process over all processes; at least 1.

    Every process has to call it.

    Returns:
        (n,), with the type and device of ``like``.
    """
    mean = like.new_tensor(counts)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.clamp(min=1)
