"""Simple feature pyramid on a plain ViT of timm (ViTDet; Li et al., 2022, section 3)."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from segcore.backbones.timm_features import (
    KEY,
    STRIDES,
    TimmFeatures,
    build_timm_features,
    with_prefix,
)
from segcore.errors import ConfigError


@BACKBONE_REGISTRY.register()
class TimmViTPyramid(Backbone):
    """Maps "res2" to "res5" of strides 4 to 32 from the last map of a plain ViT.

    The map is enlarged by transposed convolutions and reduced by max-pooling; a 1 x 1 and a 3 x 3
    convolution, each with a layer norm, follow on every level. All blocks attend globally.

    Args:
        features: the ViT, with one map.
        channels: of each level.

    Raises:
        ConfigError: the model has maps of several strides, or a stride that is none of 8, 16, 32.
    """

    @configurable
    def __init__(self, *, features: TimmFeatures, channels: int = 256) -> None:
        super().__init__()
        if features.is_pyramid or len(features.strides) != 1:
            raise ConfigError(
                f"{KEY}: expected a plain ViT of timm, got {features.name!r}, which has maps of "
                "several strides: take it as MODEL.BACKBONE.NAME TimmBackbone"
            )
        self.timm = features
        (patch,), (width,) = features.strides, features.channels
        self.levels = nn.ModuleDict(
            {name: _level(width, patch, stride, channels) for stride, name in STRIDES.items()}
        )
        self._out_features = list(self.levels)
        self._out_feature_strides = {name: stride for stride, name in STRIDES.items()}
        self._out_feature_channels = dict.fromkeys(self.levels, channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        timm = cfg.MODEL.TIMM
        patch = {"patch_size": timm.PATCH_SIZE} if timm.PATCH_SIZE else {}
        return {
            "features": build_timm_features(cfg, indices=[-1], arguments=patch),
            "channels": timm.PYRAMID_CHANNELS,
        }

    accepts_any_size = True  # see segcore.backbones.features.required_divisor

    @property
    def size_divisibility(self) -> int:
        """Multiple that batches are padded to; any size is accepted."""
        return max(STRIDES)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Image batch (B, 3, H, W) -> feature name: (B, C, ceil(H/stride), ceil(W/stride))."""
        (x,) = self.timm(images)
        height, width = images.shape[-2:]
        return {
            name: level(x)[..., : -(-height // stride), : -(-width // stride)]
            for (stride, name), level in zip(STRIDES.items(), self.levels.values(), strict=True)
        }

    def convert_published(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return the entries of a file of timm with names of ours."""
        return with_prefix("timm.", self.timm, state, source)


def _level(width: int, patch: int, stride: int, channels: int) -> nn.Sequential:
    """Map (B, width, h, w) of stride ``patch`` -> (B, channels, ., .) of ``stride``."""
    from timm.layers import LayerNorm2d

    layers: list[nn.Module] = []
    while patch > stride:
        if layers:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width, patch = width // 2, patch // 2
    if patch < stride:
        layers.append(nn.MaxPool2d(stride // patch, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
