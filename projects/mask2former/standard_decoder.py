"""MaskFormer's transformer decoder (Cheng et al., 2021, section 3.2): DETR's on one map."""

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from torch import Tensor, nn

from mask2former.detr import DetrDecoder, DetrEncoder
from mask2former.mask_products import mask_logits
from mask2former.transformer_decoder import TRANSFORMER_DECODER_REGISTRY, decoder_options
from segcore.layers import MLP, SinePositionEncoding, token_encodings


class DetrTransformer(nn.Module):
    """DETR's encoder and decoder; keyword arguments are those of their layers."""

    def __init__(
        self, dim: int, *, num_encoder_layers: int, num_decoder_layers: int, **layer_options
    ):
        super().__init__()
        self.encoder = DetrEncoder(dim, num_layers=num_encoder_layers, **layer_options)
        self.decoder = DetrDecoder(dim, num_layers=num_decoder_layers, **layer_options)

    def forward(self, tokens: Tensor, positions: Tensor, query_pos: Tensor) -> list[Tensor]:
        """Return the queries (B, Q, C) after each layer, see :class:`DetrDecoder`."""
        return self.decoder(query_pos, self.encoder(tokens, positions), positions)


@TRANSFORMER_DECODER_REGISTRY.register()
class StandardTransformerDecoder(nn.Module):
    """Queries attend to all of one map, and predict a mask, and a class, after each layer."""

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int | None,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        mask_dim: int,
        dropout: float = 0.1,
        pre_norm: bool = False,
        deep_supervision: bool = True,
        enforce_input_projection: bool = False,
    ):
        """
        Args:
            in_channels: of the map that the queries attend to.
            num_classes: K, without "no object"; None where masks are not classified.
            hidden_dim, num_heads, feedforward_dim, dropout, pre_norm: of the transformer.
            num_queries: Q.
            num_encoder_layers: of the map, 0 or more.
            num_decoder_layers: of the queries, 1 or more.
            mask_dim: channels of the per-pixel embedding.
            deep_supervision: in training, predict from the other layers too.
            enforce_input_projection: 1x1 convolution of the map even if in_channels is hidden_dim.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.position_encoding = SinePositionEncoding(hidden_dim // 2)
        self.transformer = DetrTransformer(
            hidden_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Sequential()
        if in_channels != hidden_dim or enforce_input_projection:
            self.input_proj = Conv2d(in_channels, hidden_dim, kernel_size=1)
            weight_init.c2_xavier_fill(self.input_proj)
        self.class_embed = None
        if num_classes is not None:
            self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True
    ) -> dict[str, Any]:
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            **decoder_options(cfg, in_channels),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if mask_classification else None,
            "num_encoder_layers": mask_former.ENC_LAYERS,
            "num_decoder_layers": mask_former.DEC_LAYERS,
            "dropout": mask_former.DROPOUT,
            "deep_supervision": mask_former.DEEP_SUPERVISION,
        }

    def forward(self, x: Tensor, mask_features: Tensor) -> dict[str, Any]:
        """Predict a mask, and a class if masks are classified, for each query.

        Args:
            x: map (B, in_channels, h, w).
            mask_features: per-pixel embedding (B, mask_dim, H, W).

        Returns:
            {"pred_logits": (B, Q, K+1), the last is "no object"; "pred_masks": logits (B, Q, H, W);
            "aux_outputs": the same two after each layer but the last, with deep supervision in
            training; else empty}. Without classes there is no "pred_logits".
        """
        if not isinstance(x, Tensor):
            raise ValueError(
                "x: expected one map, which MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE names: a "
                "feature of the backbone, 'pixel_embedding', or 'transformer_encoder' of a pixel "
                f"decoder with an encoder; got {'none' if x is None else type(x).__name__}"
            )
        tokens = self.input_proj(x).flatten(2).transpose(1, 2)
        (positions,) = token_encodings(self.position_encoding, [x])
        queries = self.transformer(tokens, positions.to(tokens.dtype), self.query_embed.weight)
        *others, last = queries
        supervised = others if self.training and self.deep_supervision else []
        auxiliary = [self._prediction(layer, mask_features) for layer in supervised]
        return {**self._prediction(last, mask_features), "aux_outputs": auxiliary}

    def _prediction(self, queries: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        prediction = {"pred_masks": mask_logits(self.mask_embed(queries), mask_features)}
        if self.class_embed is not None:
            prediction["pred_logits"] = self.class_embed(queries)
        return prediction
