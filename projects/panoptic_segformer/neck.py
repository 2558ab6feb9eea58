"""Channel mapper: backbone features to maps of one width (Panoptic SegFormer, Li et al., 2022)."""

from collections.abc import Sequence

from detectron2.layers import Conv2d
from torch import Tensor, nn

from segcore.layers import convolve


class ChannelMapper(nn.Module):
    """1x1 convolutions of every feature, and one more level of half the last one's size."""

    def __init__(self, in_channels: Sequence[int], out_channels: int):
        """
        Args:
            in_channels: of the features, fine to coarse.
            out_channels: C of every map, a multiple of 32.
        """
        super().__init__()
        self.lateral = nn.ModuleList(
            _conv_norm(channels, out_channels, kernel_size=1) for channels in in_channels
        )
        # From the feature itself, not from its map.
        self.extra = nn.ModuleList(
            [_conv_norm(in_channels[-1], out_channels, kernel_size=3, stride=2, padding=1)]
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, C_l, H_l, W_l), fine to coarse -> one more maps (B, C, H_l, W_l)."""
        maps = [
            convolve(conv, feature) for conv, feature in zip(self.lateral, features, strict=True)
        ]
        return maps + [convolve(conv, features[-1]) for conv in self.extra]


def _conv_norm(in_channels: int, out_channels: int, **options: int) -> Conv2d:
    norm = nn.GroupNorm(32, out_channels)
    convolution = Conv2d(in_channels, out_channels, bias=False, norm=norm, **options)
    nn.init.xavier_uniform_(convolution.weight)
    return convolution
