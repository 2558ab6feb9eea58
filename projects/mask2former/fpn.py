"""MaskFormer's pixel decoders (Cheng et al., 2021, section 4.1): a feature pyramid (FPN, Lin et
al., 2017), and one whose coarsest map is encoded by a transformer."""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask2former.detr import DetrEncoder
from mask2former.pixel_decoder import NUM_MULTI_SCALE_MAPS, conv_norm, pyramid_options, require_maps
from segcore.layers import SinePositionEncoding, convolve, token_encodings


@SEM_SEG_HEADS_REGISTRY.register()
class BasePixelDecoder(nn.Module):
    """A feature pyramid: from the coarsest map on, each is resized to the next finer one and added.

    Convolutions are ``adapter_{i}`` (of the features) and ``layer_{i}`` (of the sums), i from 1 for
    the finest feature; the coarsest has no adapter.
    """

    @configurable
    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, conv_dim: int, mask_dim: int, norm: str
    ):
        """
        Args:
            input_shape: channels and stride of each feature by name; any number of them.
            conv_dim: channels of the pyramid.
            mask_dim: channels of the per-pixel embedding.
            norm: norm of the convolutions, "" for none (they then have biases).
        """
        super().__init__()
        require_maps(input_shape)
        by_stride = sorted(input_shape.items(), key=lambda item: item[1].stride)
        # (feature, its lateral convolution, its output convolution) by name, coarse to fine.
        self.levels = []
        for index, (name, shape) in reversed(list(enumerate(by_stride, start=1))):
            lateral, output, channels = None, f"layer_{index}", shape.channels
            if self.levels:
                lateral, channels = f"adapter_{index}", conv_dim
                self.add_module(lateral, conv_norm(shape.channels, conv_dim, 1, norm))
            self.add_module(output, conv_norm(channels, conv_dim, 3, norm, activation=F.relu))
            self.levels.append((name, lateral, output))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return pyramid_options(cfg, input_shape)

    def forward_features(
        self, features: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Decode backbone features {name: (B, C_l, H_l, W_l)}.

        Returns:
            The per-pixel embedding (B, mask_dim, H, W) of the finest feature's size, the encoded
            map where there is an encoder, else None, and at most three maps (B, conv_dim, H_l,
            W_l), coarse to fine.
        """
        (name, _, output), *finer = self.levels
        encoded = self.encode(features[name])
        x = features[name] if encoded is None else encoded
        maps = [convolve(getattr(self, output), x)]
        for name, lateral, output in finer:
            skip = convolve(getattr(self, lateral), features[name])
            coarse = F.interpolate(maps[-1], size=skip.shape[-2:], mode="nearest")
            maps.append(convolve(getattr(self, output), skip + coarse))
        return convolve(self.mask_features, maps[-1]), encoded, maps[:NUM_MULTI_SCALE_MAPS]

    def encode(self, coarsest: Tensor) -> Tensor | None:
        """Return the map that the pyramid starts from instead of the coarsest feature, or None."""
        return None


class MapTransformer(nn.Module):
    """A transformer encoder over the cells of one map; arguments are those of DetrEncoder."""

    def __init__(self, dim: int, **encoder_options):
        super().__init__()
        self.position_encoding = SinePositionEncoding(dim // 2)
        self.encoder = DetrEncoder(dim, **encoder_options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = x.flatten(2).transpose(1, 2)
        (positions,) = token_encodings(self.position_encoding, [x])
        encoded = self.encoder(tokens, positions.to(tokens.dtype))
        return encoded.transpose(1, 2).unflatten(2, x.shape[-2:])


@SEM_SEG_HEADS_REGISTRY.register()
class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """A feature pyramid whose coarsest map is encoded by a transformer first."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        num_encoder_layers: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        pre_norm: bool,
    ):
        """
        Args:
            input_shape, conv_dim, mask_dim, norm: see :class:`BasePixelDecoder`.
            num_encoder_layers, num_heads, feedforward_dim, dropout, pre_norm: of the encoder.
        """
        name, shape = max(input_shape.items(), key=lambda item: item[1].stride)
        encoded = type(shape)(channels=conv_dim, stride=shape.stride)
        super().__init__(
            {**input_shape, name: encoded}, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm
        )
        self.input_proj = Conv2d(shape.channels, conv_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.input_proj)
        self.transformer = MapTransformer(
            conv_dim,
            num_layers=num_encoder_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            pre_norm=pre_norm,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            **super().from_config(cfg, input_shape),
            "num_encoder_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "num_heads": mask_former.NHEADS,
            "feedforward_dim": mask_former.DIM_FEEDFORWARD,
            "dropout": mask_former.DROPOUT,
            "pre_norm": mask_former.PRE_NORM,
        }

    def encode(self, coarsest: Tensor) -> Tensor:
        return self.transformer(convolve(self.input_proj, coarsest))
