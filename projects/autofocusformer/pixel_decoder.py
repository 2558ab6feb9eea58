"""Pixel decoder on tokens: backbone tokens to mask features and multi-scale tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from autofocusformer.deformable_attention import PointDeformAttn, TokenLevels
from autofocusformer.downsampling import NeighborhoodMerge
from autofocusformer.position_encoding import TokenPositionEncoding
from autofocusformer.tokens import Tokens
from segcore.layers import DeformableEncoder, Linear, by_rows, level_positions
from segcore.ops import knn

NUM_LEVELS = 3
# Tokens that a point convolution sees, the center included.
CONVOLUTION_SIZE = 9


class TokenTransformer(nn.Module):
    """Deformable encoder over the tokens of several levels, each with a learned embedding."""

    def __init__(
        self, embed_dim: int, *, num_levels: int, per_image: bool, **encoder_options
    ) -> None:
        super().__init__()
        self.position_encoding = TokenPositionEncoding(embed_dim // 2, per_image=per_image)
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))
        self.encoder = DeformableEncoder(embed_dim, num_levels=num_levels, **encoder_options)

    def forward(self, tokens: Sequence[Tokens], levels: TokenLevels) -> list[Tokens]:
        """Encode ``num_levels`` sets of tokens with their positions."""
        encodings = [self.position_encoding(level.positions) for level in tokens]
        features = torch.cat([level.features for level in tokens], dim=1)
        encoded = self.encoder(
            features,
            level_positions(encodings, self.level_embed).to(features.dtype),
            levels.positions,
            levels,
        )
        return [
            level.with_features(part)
            for level, part in zip(tokens, encoded.split(levels.sizes, dim=1), strict=True)
        ]


class PointConvolution(NeighborhoodMerge):
    """Convolution over the 9 nearest tokens."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, out_dim, center_minus_member=True)

    def forward(self, tokens: Tokens) -> Tensor:
        """N tokens of each image -> (B, N, out_dim)."""
        positions = tokens.positions
        members = knn(positions, positions, min(CONVOLUTION_SIZE, positions.shape[1]))
        return self.merge(tokens, positions, members)


@SEM_SEG_HEADS_REGISTRY.register()
class PointPixelDecoder(nn.Module):
    """Deformable encoder on the coarse tokens, point convolution on the finest (AutoFocusFormer,
    section 3.4).

    Runs in the type of its weights whatever the autocast, unless that is asked for.
    """

    # The names in official files, whose backbone returns tokens, and the default of the key.
    on_maps = ("MSDeformAttnPixelDecoder", "BasePixelDecoder")

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        mask_dim: int,
        num_encoder_layers: int,
        num_heads: int,
        dropout: float,
        power: float,
        learnable_power: bool,
        per_image: bool = False,
        feedforward_dim: int = 1024,
        num_points: int = 4,
        autocast: bool = False,
    ) -> None:
        """
        Args:
            input_shape: of the four backbone features, with channels, and strides that sort them.
            conv_dim: width of the decoder.
            mask_dim: channels of the per-pixel embedding.
            num_encoder_layers, num_heads, num_points, feedforward_dim, dropout: of the encoder.
            power, learnable_power: see :class:`PointDeformAttn`.
            per_image: encode positions of each image independently of the others in its batch.
            autocast: take the type of the autocast; positions and sums stay in float32.
        """
        super().__init__()
        fine_to_coarse = sorted(input_shape.items(), key=lambda item: item[1].stride)
        if len(fine_to_coarse) != NUM_LEVELS + 1:
            raise ValueError(
                f"input_shape: expected {NUM_LEVELS + 1} features (MODEL.SEM_SEG_HEAD.IN_FEATURES),"
                f" got {[name for name, _ in fine_to_coarse]}"
            )
        self.autocast = autocast
        (self.finest, finest_shape), *coarser = fine_to_coarse
        coarser.reverse()
        self.encoded = [name for name, _ in coarser]  # coarse to fine
        self.input_proj = nn.ModuleList(
            _linear_norm(shape.channels, conv_dim) for _, shape in coarser
        )
        self.transformer = TokenTransformer(
            conv_dim,
            num_levels=NUM_LEVELS,
            per_image=per_image,
            num_layers=num_encoder_layers,
            num_heads=num_heads,
            num_points=num_points,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            attention=partial(PointDeformAttn, power=power, learnable_power=learnable_power),
        )
        self.adapter_1 = _linear_norm(finest_shape.channels, conv_dim)
        self.layer_1 = nn.Sequential(
            PointConvolution(conv_dim, conv_dim), nn.LayerNorm(conv_dim), nn.ReLU()
        )
        self.mask_features = Linear(conv_dim, mask_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head, aff = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.AFF
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "num_encoder_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_heads": cfg.MODEL.MASK_FORMER.NHEADS,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            # The key acts on the distance, the module on its square.
            "power": aff.SHEPARD_POWER / 2,
            "learnable_power": aff.SHEPARD_POWER_LEARNABLE,
            "per_image": aff.PER_IMAGE,
            "autocast": cfg.SOLVER.AMP.PIXEL_DECODER,
        }

    def forward_features(
        self, features: dict[str, Tokens], *, project: bool = True
    ) -> tuple[Tokens, Tokens, list[Tokens]]:
        """Decode backbone features {name: tokens}; the finest has one token in each cell.

        Args:
            project: apply the last layer, ``mask_features``; else the queries take it, see
                :func:`mask2former.mask_products.mask_products`.

        Returns:
            Tokens of the finest level with the per-pixel embedding, or with what its last layer
            takes, the coarsest encoded tokens, and the encoded tokens of three levels, coarse to
            fine.
        """
        used = {name: features[name] for name in (self.finest, *self.encoded)}
        for name, tokens in used.items():
            if not isinstance(tokens, Tokens):
                raise TypeError(
                    f"features: expected tokens (autofocusformer.tokens.Tokens) as {name}, "
                    f"got {type(tokens).__name__}"
                )
        if self.autocast:
            return self._decode(used, project)
        weight = self.mask_features.weight
        with torch.autocast(device_type=weight.device.type, enabled=False):
            return self._decode(
                {
                    name: tokens.with_features(tokens.features.to(weight.dtype))
                    for name, tokens in used.items()
                },
                project,
            )

    def _decode(
        self, features: dict[str, Tokens], project: bool
    ) -> tuple[Tokens, Tokens, list[Tokens]]:
        projected = [
            features[name].with_features(projection(features[name].features))
            for projection, name in zip(self.input_proj, self.encoded, strict=True)
        ]
        levels = TokenLevels.from_tokens(projected)
        encoded = self.transformer(projected, levels)

        finest = features[self.finest]
        x = levels.interpolate(NUM_LEVELS - 1, encoded[-1].features, finest)
        x = by_rows(lambda x, coarser: self.adapter_1(x) + coarser, finest.features, x)
        convolution, *norm_and_activation = self.layer_1
        convolved = convolution(finest.with_features(x))
        last = [self.mask_features] if project else []
        x = by_rows(nn.Sequential(*norm_and_activation, *last), convolved)
        return finest.with_features(x), encoded[0], encoded


def _linear_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(Linear(in_channels, out_channels), nn.LayerNorm(out_channels))
