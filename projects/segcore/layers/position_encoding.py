"""Sinusoidal position encodings of two-dimensional maps."""

import math

import torch
from torch import Tensor, nn


class SinePositionEncoding(nn.Module):
    """Sine and cosine of both coordinates at geometric wavelengths (DETR, appendix A.4).

    Channel j of an axis is the sine (j even) or cosine (j odd) of the coordinate divided by
    ``temperature ** (2 * (j // 2) / num_features)``.

    Args:
        num_features: channels F of each axis; the encoding has ``2 * num_features``.
        temperature: ratio of the longest to the shortest wavelength.
        normalize: scale the coordinates of a map to (0, 2 pi]; else they are 1, 2, 3, ...
        offset: added to the coordinates 1, 2, 3, ... before they are scaled (-0.5: cell centers).
    """

    def __init__(
        self,
        num_features: int,
        temperature: float = 10000.0,
        normalize: bool = True,
        offset: float = 0.0,
    ):
        super().__init__()
        if num_features < 2 or num_features % 2:
            raise ValueError(
                f"num_features: expected an even number of channels, got {num_features}"
            )
        self.num_features = num_features
        self.temperature = temperature
        self.normalize = normalize
        self.offset = offset

    def forward(
        self,
        size: tuple[int, int],
        *,
        device: torch.device | str | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode a map of ``size`` (H, W).

        Args:
            padding_mask: bool (B, H, W), True = padding; coordinates count the other cells.

        Returns:
            float32 (1, 2F, H, W), or (B, 2F, H, W) with a mask: F channels for y, then F for x.
        """
        height, width = size
        if padding_mask is None:
            y = torch.arange(1, height + 1, dtype=torch.float32, device=device)[None, :, None]
            x = torch.arange(1, width + 1, dtype=torch.float32, device=device)[None, None, :]
        else:
            if padding_mask.shape[1:] != (height, width):
                raise ValueError(
                    f"padding_mask: expected (B, {height}, {width}), "
                    f"got {tuple(padding_mask.shape)}"
                )
            inside = (~padding_mask).to(torch.float32)
            y, x = inside.cumsum(1), inside.cumsum(2)
        if self.normalize:
            # In a column of padding y is offset / 1e-6 * 2 pi, whose sine hangs on this order.
            y = (y + self.offset) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
            x = (x + self.offset) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
        # Without a mask y is (1, H, 1) and x (1, 1, W): each sine is computed once a row or column.
        features = [self.encode(axis).expand(-1, -1, height, width) for axis in (y, x)]
        return torch.cat(features, dim=1)

    def encode(self, coordinates: Tensor) -> Tensor:
        """Encode coordinates (B, H, W) of one axis, as they are, as (B, F, H, W)."""
        channel = torch.arange(self.num_features, dtype=torch.float32, device=coordinates.device)
        wavelength = self.temperature ** (2 * (channel // 2) / self.num_features)
        phase = coordinates[:, None] / wavelength[:, None, None]
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1, 2)
