"""Relative position features of AutoFocusFormer (Ziwen et al., CVPR 2023, section 3.2)."""

import torch
from torch import Tensor

NUM_OFFSET_FEATURES = 5


def offset_features(offsets: Tensor) -> Tensor:
    """Return (dx, dy, d, dy/d, dx/d) of offsets (dx, dy) of length d: (..., 2) -> (..., 5).

    The directions dy/d and dx/d are 0 where d is 0.
    """
    length = offsets.square().sum(-1, keepdim=True).sqrt()
    direction = offsets.flip(-1) / torch.where(length == 0, 1, length)
    return torch.cat([offsets, length, direction], -1)
