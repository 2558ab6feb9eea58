"""By what sums of losses are divided."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor


def mean_over_workers(counts: Sequence[int], like: Tensor) -> Tensor:
    """``counts`` (n) of this process, averaged over all processes and at least 1 -> (n).

    Of the type and on the device of ``like``. Every process has to call it.
    """
    mean = like.new_tensor(counts)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.clamp(min=1)
