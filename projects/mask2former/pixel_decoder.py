"""Pixel decoder: backbone features to mask features and multi-scale features."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segcore.backbones.features import are_tokens
from segcore.layers import (
    DeformableEncoder,
    SinePositionEncoding,
    convolve,
    flatten_levels,
    grid_reference_points,
    has_hooks,
    level_positions,
    token_encodings,
)

# Feature maps that the pixel decoder hands to the transformer decoder, coarse to fine.
NUM_MULTI_SCALE_MAPS = 3


class MultiScaleTransformer(nn.Module):
    """Deformable encoder over the tokens of several maps, each with a learned embedding."""

    def __init__(self, embed_dim: int, *, num_levels: int, **encoder_options):
        super().__init__()
        self.position_encoding = SinePositionEncoding(embed_dim // 2)
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))
        self.encoder = DeformableEncoder(embed_dim, num_levels=num_levels, **encoder_options)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``num_levels`` maps (B, C, H_l, W_l) -> the encoded maps, channels-last in memory."""
        spatial_shapes = [level.shape[-2:] for level in maps]
        tokens = flatten_levels(maps)
        reference_points = grid_reference_points(spatial_shapes, tokens.device)[
            None, :, None
        ].expand(len(tokens), -1, len(spatial_shapes), -1)
        positions = level_positions(token_encodings(self.position_encoding, maps), self.level_embed)
        encoded = self.encoder(
            tokens,
            positions.to(tokens.dtype),
            reference_points,
            spatial_shapes,
        )
        levels = encoded.split([height * width for height, width in spatial_shapes], dim=1)
        # Not transposed first: the strides of a single image would not be channels-last to PyTorch.
        return [
            level.unflatten(1, shape).movedim(-1, 1)
            for level, shape in zip(levels, spatial_shapes, strict=True)
        ]


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Deformable encoder on the coarse features, FPN on the finer ones (Mask2Former, section 4.1).

    Runs in the type of its weights whatever the autocast, unless that is asked for.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        transformer_in_features: Sequence[str],
        common_stride: int,
        num_encoder_layers: int,
        num_heads: int,
        dropout: float,
        feedforward_dim: int = 1024,
        autocast: bool = False,
    ):
        """
        Args:
            input_shape: channels and stride of each feature by name.
            conv_dim: channels of the encoder and of the FPN.
            mask_dim: channels of the per-pixel embedding.
            norm: norm of the FPN's convolutions, "" for none (they then have biases).
            transformer_in_features: the features that the encoder takes.
            common_stride: stride of the per-pixel embedding, reached by FPN levels.
            num_encoder_layers, num_heads, dropout, feedforward_dim: of the encoder.
            autocast: take the type of the autocast; sampling locations and sums stay in float32.
        """
        super().__init__()
        require_maps(input_shape)
        by_stride = sorted(input_shape.items(), key=lambda item: item[1].stride)
        encoded = [(name, s) for name, s in by_stride if name in transformer_in_features][::-1]
        missing = set(transformer_in_features) - set(input_shape)
        if missing or not encoded:
            raise ValueError(
                f"transformer_in_features: expected some of {sorted(input_shape)}, "
                f"got {list(transformer_in_features)}"
            )
        self.autocast = autocast
        self.transformer_in_features = [name for name, _ in encoded]  # coarse to fine
        self.input_proj = nn.ModuleList(
            _projection(shape.channels, conv_dim) for _, shape in encoded
        )
        self.transformer = MultiScaleTransformer(
            conv_dim,
            num_levels=len(encoded),
            num_layers=num_encoder_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
        )

        num_fpn_levels = int(math.log2(encoded[-1][1].stride) - math.log2(common_stride))
        if num_fpn_levels + len(encoded) < NUM_MULTI_SCALE_MAPS:
            raise ValueError(
                f"expected at least {NUM_MULTI_SCALE_MAPS} maps, got {len(encoded)} of the encoder "
                f"and {num_fpn_levels} of the FPN down to stride {common_stride}"
            )
        # (feature, its lateral convolution, its output convolution) by name, coarse to fine.
        self.fpn_levels = []
        for index, (name, shape) in reversed(list(enumerate(by_stride[:num_fpn_levels], start=1))):
            lateral, output = f"adapter_{index}", f"layer_{index}"
            self.add_module(lateral, conv_norm(shape.channels, conv_dim, 1, norm))
            self.add_module(output, conv_norm(conv_dim, conv_dim, 3, norm, activation=F.relu))
            self.fpn_levels.append((name, lateral, output))

        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            **pyramid_options(cfg, input_shape),
            "transformer_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "common_stride": head.COMMON_STRIDE,
            "num_encoder_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_heads": cfg.MODEL.MASK_FORMER.NHEADS,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "autocast": cfg.SOLVER.AMP.PIXEL_DECODER,
        }

    def forward_features(
        self, features: dict[str, Tensor], *, project: bool = True
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Decode backbone features {name: (B, C_l, H_l, W_l)}.

        Args:
            project: apply the last layer, ``mask_features``; else the queries take it, see
                :func:`mask2former.mask_products.mask_products`.

        Returns:
            The per-pixel embedding (B, mask_dim, H, W) at the common stride, or the map (B,
            conv_dim, H, W) that its last layer takes, the coarsest encoded map, and three maps
            (B, conv_dim, H_l, W_l), coarse to fine.
        """
        if self.autocast:
            return self._decode(features, project)
        weight = self.mask_features.weight
        with torch.autocast(device_type=weight.device.type, enabled=False):
            return self._decode({name: x.to(weight.dtype) for name, x in features.items()}, project)

    def _decode(
        self, features: dict[str, Tensor], project: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        projected = [
            _project(projection, features[name])
            for projection, name in zip(self.input_proj, self.transformer_in_features, strict=True)
        ]
        maps = self.transformer(projected)
        for name, lateral, output in self.fpn_levels:
            summed = convolve(getattr(self, lateral), features[name], coarse=maps[-1])
            maps.append(convolve(getattr(self, output), summed))
        mask_features = convolve(self.mask_features, maps[-1]) if project else maps[-1]
        return mask_features, maps[0], maps[:NUM_MULTI_SCALE_MAPS]


def pyramid_options(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
    """Return the arguments that pixel decoders on maps have in common."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
        "conv_dim": head.CONVS_DIM,
        "mask_dim": head.MASK_DIM,
        "norm": head.NORM,
    }


def require_maps(input_shape: Mapping[str, ShapeSpec]) -> None:
    """Raise a ValueError if the features of a backbone are tokens."""
    if are_tokens(input_shape):
        raise ValueError(
            "input_shape: expected maps, got tokens, which PointPixelDecoder of autofocusformer "
            "decodes"
        )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Conv2d:
    """Build a convolution that keeps the size, with a bias where ``norm`` is ""."""
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    weight_init.c2_xavier_fill(convolution)
    return convolution


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, out_channels))


def _project(projection: nn.Sequential, x: Tensor) -> Tensor:
    if has_hooks(projection):
        return projection(x)
    convolution, group_norm = projection
    return group_norm(convolve(convolution, x))
