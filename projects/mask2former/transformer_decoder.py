"""Transformer decoder with masked attention (Mask2Former, sections 3.2.1 and 3.2.2)."""

from collections.abc import Callable, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mask2former.config import ATTENTIONS, QUERY_INITS
from mask2former.mask_products import mask_logits, mask_products
from segcore.functional import at_least_float32
from segcore.layers import (
    MLP,
    Linear,
    MultiHeadAttention,
    SinePositionEncoding,
    token_encodings,
)
from segcore.ops import take

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_MODULE")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders, called with (cfg, in_channels, mask_classification=True); their forward takes
what the pixel decoder hands over and the per-pixel embedding.
"""


def decoder_options(cfg: CfgNode, in_channels: int) -> dict[str, Any]:
    """Return the arguments that transformer decoders have in common."""
    mask_former = cfg.MODEL.MASK_FORMER
    return {
        "in_channels": in_channels,
        "hidden_dim": mask_former.HIDDEN_DIM,
        "num_queries": mask_former.NUM_OBJECT_QUERIES,
        "num_heads": mask_former.NHEADS,
        "feedforward_dim": mask_former.DIM_FEEDFORWARD,
        "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        "pre_norm": mask_former.PRE_NORM,
        "enforce_input_projection": mask_former.ENFORCE_INPUT_PROJ,
    }


class _ResidualLayer(nn.Module):
    """A residual around a sub-layer, with its LayerNorm after the sum, or before the sub-layer."""

    def __init__(self, dim: int, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_norm = pre_norm

    def _residual(self, queries: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return queries + sublayer(self.norm(queries))
        return self.norm(queries + sublayer(queries))


class MaskPooling(nn.Module):
    """Mean of the values in the mask of each query, between two linear layers: what masked
    attention is with equal weights (mask pooling of K-Net, Zhang et al., 2021)."""

    def __init__(self, dim: int):
        super().__init__()
        self.value_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        for layer in (self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Arguments and result are those of MultiHeadAttention; query and key do not count."""
        weights = visible[:, 0].to(value.dtype)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.out_proj(weights @ self.value_proj(value))


class CrossAttentionLayer(_ResidualLayer):
    """Queries (B, Q, C) attend to the visible ones of S keys and values (B, S, C)."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool = False, *, pooled: bool = False):
        super().__init__(dim, pre_norm)
        self.multihead_attn = MaskPooling(dim) if pooled else MultiHeadAttention(dim, num_heads)

    def forward(
        self, queries: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
    ) -> Tensor:
        return self._residual(
            queries, lambda q: self.multihead_attn(q + query_pos, key, value, visible)
        )


class SelfAttentionLayer(_ResidualLayer):
    """Queries (B, Q, C) attend to each other."""

    def __init__(self, dim: int, num_heads: int, pre_norm: bool = False):
        super().__init__(dim, pre_norm)
        self.self_attn = MultiHeadAttention(dim, num_heads)

    def forward(self, queries: Tensor, query_pos: Tensor) -> Tensor:
        def attend(queries: Tensor) -> Tensor:
            key = queries + query_pos
            return self.self_attn(key, key, queries)

        return self._residual(queries, attend)


class FFNLayer(_ResidualLayer):
    """Two linear layers with ReLU between."""

    def __init__(self, dim: int, feedforward_dim: int, pre_norm: bool = False):
        super().__init__(dim, pre_norm)
        self.linear1 = Linear(dim, feedforward_dim, activation="relu")
        self.linear2 = Linear(feedforward_dim, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, queries: Tensor) -> Tensor:
        return self._residual(queries, lambda q: self.linear2(self.linear1(q)))


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Learned queries attend, inside the masks that they predict, to one map after another."""

    # Official checkpoints of version 1 call query_feat static_query: see checkpoint_names.
    _version = 2

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        mask_dim: int,
        pre_norm: bool = False,
        enforce_input_projection: bool = False,
        num_levels: int = 3,
        attention: str = "masked",
        query_init: str = "learned",
    ):
        """
        Args:
            in_channels: of each map that the queries attend to.
            num_classes: K, without "no object".
            hidden_dim, num_heads, feedforward_dim: of the transformer.
            num_queries: Q.
            num_layers: true number of layers; there is one prediction more.
            mask_dim: channels of the per-pixel embedding.
            pre_norm: LayerNorm before attention and feed-forward network instead of after.
            enforce_input_projection: 1x1 convolution of the maps even if in_channels is hidden_dim.
            num_levels: number of maps.
            attention: to the maps: "masked", "plain" without masks, or "pooled", see
                :class:`MaskPooling`.
            query_init: content of the queries before the first layer: "learned", "zero", or
                "pixel_decoder", the tokens of the maps that are most probably of a class.

        Raises:
            ValueError: ``attention`` or ``query_init`` is unknown.
        """
        super().__init__()
        for name, value, known in (
            ("attention", attention, ATTENTIONS),
            ("query_init", query_init, QUERY_INITS),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        self.num_levels = num_levels
        self.attention = attention
        self.query_init = query_init
        self.position_encoding = SinePositionEncoding(hidden_dim // 2)
        layers = range(num_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads, pre_norm, pooled=attention == "pooled")
            for _ in layers
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads, pre_norm) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(hidden_dim, feedforward_dim, pre_norm) for _ in layers
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)

        self.query_feat = None
        if query_init == "learned":
            self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        project = in_channels != hidden_dim or enforce_input_projection
        self.input_proj = nn.ModuleList(
            self._projection(in_channels, hidden_dim) if project else nn.Sequential()
            for _ in range(num_levels)
        )

        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True
    ) -> dict[str, Any]:
        if not mask_classification:
            raise ValueError(f"mask_classification: {cls.__name__} always classifies its masks")
        mask_former = cfg.MODEL.MASK_FORMER
        if mask_former.DEC_LAYERS < 2:
            raise ValueError(
                "MODEL.MASK_FORMER.DEC_LAYERS counts the predictions, one more than there are "
                f"layers: expected at least 2, got {mask_former.DEC_LAYERS}"
            )
        return {
            **decoder_options(cfg, in_channels),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_layers": mask_former.DEC_LAYERS - 1,
            "num_levels": len(mask_former.FEATURE_LEVELS),
            "attention": mask_former.ATTENTION,
            "query_init": mask_former.QUERY_INIT,
        }

    @staticmethod
    def _projection(in_channels: int, out_channels: int) -> nn.Module:
        """Build the projection of a feature level to the channels of the queries."""
        convolution = Conv2d(in_channels, out_channels, kernel_size=1)
        weight_init.c2_xavier_fill(convolution)
        return convolution

    def forward(
        self,
        maps: Sequence[Tensor],
        mask_features: Tensor,
        mask_projection: nn.Module | None = None,
    ) -> dict[str, Any]:
        """Predict a class and a mask for each query.

        Args:
            maps: ``num_levels`` maps (B, in_channels, H_l, W_l), coarse to fine.
            mask_features: per-pixel embedding (B, mask_dim, H, W).
            mask_projection: in evaluation, the layer that makes the embedding of
                ``mask_features`` (B, C, H, W), if they are not the embedding itself.

        Returns:
            {"pred_logits": (B, Q, K+1), the last is "no object"; "pred_masks": logits (B, Q, H, W);
            "aux_outputs": the same two of the queries before each layer, in training; else empty}.
            In training each also has the factors of its masks, "mask_embedding" and
            "mask_features", see :func:`mask_logits`; auxiliary masks are made when asked for.
        """
        self._check_levels(maps)
        positions = token_encodings(self.position_encoding, maps)
        projected = [
            projection(level).flatten(2).transpose(1, 2)
            for projection, level in zip(self.input_proj, maps, strict=True)
        ]
        # The attention mask is the resized mask. Resizing is linear, so the per-pixel embedding is
        # resized once for each level instead of the masks of every layer.
        mask_features_by_level = [
            F.interpolate(
                mask_features.detach(), size=level.shape[-2:], mode="bilinear", align_corners=False
            ).flatten(2)
            for level in maps
        ]
        return self._decode(
            projected, positions, mask_features_by_level, mask_features, mask_projection
        )

    def _check_levels(self, feature_levels: Sequence[Any]) -> None:
        several = isinstance(feature_levels, Sequence)
        if not several or len(feature_levels) != self.num_levels:
            raise ValueError(
                f"maps: expected {self.num_levels} feature maps, which "
                "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE 'multi_scale_pixel_decoder' hands over, "
                f"got {len(feature_levels) if several else f'one {type(feature_levels).__name__}'}"
            )

    def _decode(
        self,
        feature_levels: Sequence[Tensor],
        positions: Sequence[Tensor],
        mask_features_by_level: Sequence[Tensor],
        mask_features: Tensor,
        mask_projection: nn.Module | None = None,
    ) -> dict[str, Any]:
        """Predict from feature levels of S_l tokens each.

        Args:
            feature_levels: tokens (B, S_l, C) that the queries attend to.
            positions: their position encodings (B or 1, S_l, C).
            mask_features_by_level: per-pixel embeddings (B, mask_dim, S_l) at the tokens, for
                the masks of masked attention.
            mask_features: per-pixel embedding (B, mask_dim, H, W).
            mask_projection: see :meth:`forward`.
        """
        values = [
            level + embedding
            for level, embedding in zip(feature_levels, self.level_embed.weight, strict=True)
        ]
        keys = [
            value + position.to(value.dtype)
            for value, position in zip(values, positions, strict=True)
        ]
        queries = self._initial_queries(feature_levels)
        query_pos = self.query_embed.weight
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        auxiliary = []
        for index, (cross_attention, self_attention, ffn) in enumerate(layers):
            level = index % self.num_levels
            normed = self.decoder_norm(queries)
            mask_embedding = self.mask_embed(normed)
            if self.training:
                auxiliary.append(self._auxiliary(normed, mask_embedding, mask_features))
            visible = None
            if self.attention != "plain":
                visible = _visible(
                    mask_embedding.detach(), mask_features_by_level[level], mask_projection
                )
            queries = cross_attention(queries, query_pos, keys[level], values[level], visible)
            queries = self_attention(queries, query_pos)
            queries = ffn(queries)

        normed = self.decoder_norm(queries)
        final = self._prediction(normed, self.mask_embed(normed), mask_features, mask_projection)
        return {**final, "aux_outputs": auxiliary}

    def _initial_queries(self, feature_levels: Sequence[Tensor]) -> Tensor:
        """Return the queries (B, Q, C) before the first layer, of tokens (B, S_l, C)."""
        first, num_queries = feature_levels[0], self.query_embed.num_embeddings
        match self.query_init:
            case "learned":
                return self.query_feat.weight.expand(len(first), -1, -1)
            case "zero":
                return first.new_zeros(len(first), num_queries, first.shape[-1])
        tokens = torch.cat(tuple(feature_levels), dim=1)
        # The loss of the first prediction trains the tokens and their classes.
        logits = self.class_embed(self.decoder_norm(tokens.detach())).detach()
        scores = at_least_float32(logits).softmax(-1)[..., :-1].amax(-1)
        best = scores.topk(min(num_queries, tokens.shape[1])).indices
        chosen = take(tokens, best)
        return F.pad(chosen, (0, 0, 0, num_queries - best.shape[1]))

    def _prediction(
        self,
        normed: Tensor,
        mask_embedding: Tensor,
        mask_features: Tensor,
        mask_projection: nn.Module | None,
    ) -> dict[str, Tensor]:
        masks = mask_logits(mask_embedding, mask_features, mask_projection)
        if not self.training:
            return {"pred_logits": self.class_embed(normed), "pred_masks": masks}
        return {**self._auxiliary(normed, mask_embedding, mask_features), "pred_masks": masks}

    def _auxiliary(
        self, normed: Tensor, mask_embedding: Tensor, mask_features: Tensor
    ) -> dict[str, Tensor]:
        return _PredictionOfFactors(
            pred_logits=self.class_embed(normed),
            mask_embedding=mask_embedding,
            mask_features=mask_features,
        )


class _PredictionOfFactors(dict):
    """A prediction whose "pred_masks" are made whenever they are asked for, as a loss needs those
    of matched queries alone: with a crop of 1024 pixels, nine of them take 225 MiB."""

    def __missing__(self, name: str) -> Tensor:
        if name != "pred_masks":
            raise KeyError(name)
        return mask_logits(self["mask_embedding"], self["mask_features"])


@torch.no_grad()
def _visible(mask_embedding: Tensor, mask_features: Tensor, projection: nn.Module | None) -> Tensor:
    """Return the tokens in the mask of each query, all if it is empty: bool (B, 1, Q, S)."""
    visible = mask_products(mask_embedding, mask_features, projection) >= 0
    return (visible | ~visible.any(dim=-1, keepdim=True))[:, None]
