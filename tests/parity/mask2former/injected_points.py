"""The points that stand for random ones in the golden cases of the criterion."""

import torch
from torch import Tensor

FIRST_CANDIDATE, FIRST_REST = 1000, 500_000


def sequence(first: int, *size: int) -> Tensor:
    """Points p(first), p(first + 1), ... of the additive recurrence, (*size, 2), float64."""
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    index = torch.arange(first, first + torch.Size(size).numel(), dtype=torch.float64)
    return (0.5 + index.unsqueeze(1) * steps).frac().view(*size, 2)


def matcher_points(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same points for every image and level."""
    return sequence(1, *size).to(device, dtype)


class CriterionPoints:
    """Candidates and rest of each pair, told apart by their number; the same at every level."""

    def __init__(self, num_points: int, oversample_ratio: float) -> None:
        self.num_candidates = int(num_points * oversample_ratio)

    def __call__(self, *size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        first = FIRST_CANDIDATE if size[-1] == self.num_candidates else FIRST_REST
        return sequence(first + 1, *size).to(device, dtype)
