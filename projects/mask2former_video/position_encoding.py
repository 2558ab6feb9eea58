"""Sinusoidal position encoding of the frames of a clip."""

import math

import torch
from torch import Tensor, nn

from segcore.layers import SinePositionEncoding


class SinePositionEncoding3D(nn.Module):
    """Encoding of y and x as of an image, plus an encoding of the time over all channels.

    The time is normalized by the length of the clip, to (0, 2 pi], as y and x are by its height and
    width (Mask2Former for Video Instance Segmentation, Cheng et al., 2021, section 2.2).

    Args:
        num_features: channels F of each spatial axis; the encoding has ``2 * num_features``.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.space = SinePositionEncoding(num_features)
        self.time = SinePositionEncoding(2 * num_features, normalize=False)

    def forward(
        self,
        num_frames: int,
        size: tuple[int, int],
        *,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Encode ``num_frames`` maps of ``size`` (H, W): float32 (T, 2F, H, W)."""
        frame = torch.arange(1, num_frames + 1, dtype=torch.float32, device=device)
        time = self.time.encode((frame / (num_frames + 1e-6) * (2 * math.pi)).view(-1, 1, 1))
        return self.space(size, device=device) + time
