"""Masked transformer decoder on tokens (AutoFocusFormer, section 3.4)."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from autofocusformer.position_encoding import TokenPositionEncoding
from autofocusformer.tokens import Tokens
from mask2former.transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
)
from segcore.layers import Linear
from segcore.ops import take


@TRANSFORMER_DECODER_REGISTRY.register()
class PointMaskedTransformerDecoder(MultiScaleMaskedTransformerDecoder):
    """Mask2Former's decoder whose queries attend to tokens instead of the cells of maps.

    Args:
        in_channels: of the tokens.
        per_image: encode positions of each image independently of the others in its batch.
        options: other arguments of :class:`MultiScaleMaskedTransformerDecoder`.
    """

    # The name in official files, whose backbone returns tokens.
    on_maps = ("MultiScaleMaskedTransformerDecoder",)

    @configurable
    def __init__(self, in_channels: int, *, per_image: bool = False, **options) -> None:
        super().__init__(in_channels, **options)
        self.position_encoding = TokenPositionEncoding(
            self.query_embed.embedding_dim // 2, per_image=per_image
        )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True
    ) -> dict[str, Any]:
        options = super().from_config(cfg, in_channels, mask_classification)
        return {**options, "per_image": cfg.MODEL.AFF.PER_IMAGE}

    @staticmethod
    def _projection(in_channels: int, out_channels: int) -> nn.Module:
        return Linear(in_channels, out_channels)

    def forward(
        self,
        levels: Sequence[Tokens],
        mask_features: Tokens,
        mask_projection: nn.Module | None = None,
    ) -> dict[str, Any]:
        """Predict a class and a mask for each query.

        Args:
            levels: ``num_levels`` sets of tokens, coarse to fine.
            mask_features: per-pixel embedding, one token in each cell of the canvas (H, W).
            mask_projection: see :class:`MultiScaleMaskedTransformerDecoder`.

        Returns:
            As of the decoder on maps; masks are (B, Q, H, W).
        """
        self._check_levels(levels)
        dense = mask_features.map()
        # Tokens are on cells, so that the mask at a token is a pixel of the mask. Its embedding is
        # looked up once for each level, instead of each layer's masks.
        cells = dense.detach().flatten(2).transpose(1, 2)
        level_features = [take(cells, level.cells).transpose(1, 2) for level in levels]
        projected = [
            projection(level.features)
            for projection, level in zip(self.input_proj, levels, strict=True)
        ]
        positions = [self.position_encoding(level.positions) for level in levels]
        return self._decode(projected, positions, level_features, dense, mask_projection)
