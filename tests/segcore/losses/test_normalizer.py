"""Divisors of losses: means over the workers, at least 1."""

import pytest
import torch
import torch.distributed as dist

from segcore.losses import mean_over_workers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alone(dtype):
    mean = mean_over_workers([3, 0], like=torch.zeros(1, dtype=dtype))
    assert mean.tolist() == [3, 1] and mean.dtype == dtype


def test_two_workers(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(torch.tensor([4, 0, 1])))
    # The mean is limited, not each worker's count.
    assert mean_over_workers([3, 5, 0], like=torch.zeros(1)).tolist() == [3.5, 2.5, 1]
