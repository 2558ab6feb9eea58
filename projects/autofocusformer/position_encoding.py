"""Sinusoidal position encoding of tokens."""

import math

import torch
from torch import Tensor, nn


class TokenPositionEncoding(nn.Module):
    """Sines and cosines of x, then of y, at geometric wavelengths.

    Coordinates are scaled to [0, 2 pi] by the largest one of all tokens in the batch. Of each axis
    come first all sines, then all cosines; wavelength i is ``temperature ** (2 * i / F)`` radians.

    Args:
        num_features: channels F of each axis; the encoding has ``2 * num_features``.
        per_image: divide by the largest coordinate of the image itself.
    """

    def __init__(
        self, num_features: int, *, temperature: float = 10000.0, per_image: bool = False
    ) -> None:
        super().__init__()
        if num_features < 2 or num_features % 2:
            raise ValueError(
                f"num_features: expected an even number of channels, got {num_features}"
            )
        self.num_features = num_features
        self.temperature = temperature
        self.per_image = per_image

    def forward(self, positions: Tensor) -> Tensor:
        """(B, N, 2) positions (x, y) -> (B, N, 2F) float32."""
        positions = positions.float()
        largest = positions.amax(dim=1 if self.per_image else (0, 1), keepdim=True)
        phase = positions / (largest + 1e-6) * (2 * math.pi)
        pair = torch.arange(self.num_features // 2, dtype=torch.float32, device=positions.device)
        wavelength = self.temperature ** (2 * pair / self.num_features)
        phase = phase[..., None] / wavelength  # (B, N, 2, F / 2)
        return torch.cat((phase.sin(), phase.cos()), dim=-1).flatten(2)
