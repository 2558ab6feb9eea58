"""The head of Mask2Former: pixel decoder and transformer decoder."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask2former.mask_products import can_fold
from mask2former.transformer_decoder import TRANSFORMER_DECODER_REGISTRY
from segcore.backbones.features import are_tokens


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Backbone features to class and mask predictions."""

    # Official checkpoints of version 1 have the pixel decoder here: see checkpoint_names.
    _version = 2

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        pixel_decoder: nn.Module,
        transformer_predictor: nn.Module,
        transformer_in_feature: str,
        feature_levels: Sequence[int] | None = None,
    ):
        """
        Args:
            num_classes: K, without "no object".
            pixel_decoder: offers ``forward_features(features)`` -> (per-pixel embedding, encoded
                map, list of maps).
            transformer_predictor: called with maps and per-pixel embedding. Where it has an
                argument ``mask_projection``, and ``forward_features`` one ``project``, the queries
                may take the last layer of the embedding, see :meth:`mask_projection`.
            transformer_in_feature: which maps: "multi_scale_pixel_decoder" (the list),
                "transformer_encoder" (the encoded map), "pixel_embedding", or a backbone feature.
            feature_levels: which maps of the list, coarse to fine from 0; all by default.
        """
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = transformer_predictor
        self.transformer_in_feature = transformer_in_feature
        self.feature_levels = feature_levels
        self._folds_mask_features = (
            transformer_in_feature != "pixel_embedding"
            and "project" in signature(pixel_decoder.forward_features).parameters
            and "mask_projection" in signature(transformer_predictor.forward).parameters
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pixel_decoder, in_channels = build_pixel_decoder(cfg, input_shape)
        predictor = _registered(
            "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
            cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME,
            dict(TRANSFORMER_DECODER_REGISTRY),
            on_tokens=are_tokens(input_shape),
        )
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "pixel_decoder": pixel_decoder,
            "transformer_predictor": predictor(cfg, in_channels, mask_classification=True),
            "transformer_in_feature": cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE,
            "feature_levels": cfg.MODEL.MASK_FORMER.FEATURE_LEVELS,
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Any]:
        """{name: (B, C_l, H_l, W_l)} -> the predictions of the transformer decoder."""
        projection = self.mask_projection()
        if projection is None:
            return self.predictor(*self.encode(features))
        return self.predictor(*self.encode(features, project=False), mask_projection=projection)

    def encode(self, features: dict[str, Tensor], *, project: bool = True) -> tuple[Any, Tensor]:
        """Run the pixel decoder: maps for the transformer decoder, and the per-pixel embedding.

        Args:
            project: false: without the embedding's last layer, see :meth:`mask_projection`.
        """
        return decode_pixels(
            self.pixel_decoder,
            features,
            self.transformer_in_feature,
            self.feature_levels,
            **({} if project else {"project": False}),
        )

    def mask_projection(self) -> nn.Module | None:
        """Return the last layer of the per-pixel embedding if the queries should take it instead,
        which needs fewer products: at inference on a CPU, if no hook looks at the embedding."""
        predictor = self.predictor
        if not self._folds_mask_features or predictor.training:
            return None
        if predictor._forward_hooks or predictor._forward_pre_hooks:
            return None
        projection = self.pixel_decoder.mask_features
        return projection if can_fold(projection) else None


def decode_pixels(
    pixel_decoder: nn.Module,
    features: dict[str, Tensor],
    in_feature: str,
    feature_levels: Sequence[int] | None = None,
    **options: bool,
) -> tuple[Any, Tensor]:
    """Run a pixel decoder, and return what a transformer decoder takes.

    Args:
        in_feature, feature_levels: which maps it takes, see :class:`MaskFormerHead`.
        options: of the pixel decoder's ``forward_features``.

    Returns:
        These maps, and the per-pixel embedding.
    """
    mask_features, encoded, multi_scale = pixel_decoder.forward_features(features, **options)
    match in_feature:
        case "multi_scale_pixel_decoder":
            maps = multi_scale
            if feature_levels is not None:
                maps = [multi_scale[level] for level in feature_levels]
        case "transformer_encoder":
            maps = encoded
        case "pixel_embedding":
            maps = mask_features
        case name:
            maps = features[name]
    return maps, mask_features


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> tuple[nn.Module, int]:
    """Build the pixel decoder of a config.

    Returns:
        It, and the channels of what ``MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE`` names.

    Raises:
        ValueError: there is no such pixel decoder or feature.
    """
    head, in_feature = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    unknown = [name for name in head.IN_FEATURES if name not in input_shape]
    if unknown:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES: expected features of the backbone, "
            f"{sorted(input_shape)}, got {unknown}"
        )
    pixel_decoder = _registered(
        "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
        head.PIXEL_DECODER_NAME,
        {
            name: decoder
            for name, decoder in SEM_SEG_HEADS_REGISTRY
            if hasattr(decoder, "forward_features")
        },
        on_tokens=are_tokens(input_shape),
    )
    channels = {name: shape.channels for name, shape in input_shape.items()} | {
        "multi_scale_pixel_decoder": head.CONVS_DIM,
        "transformer_encoder": head.CONVS_DIM,
        "pixel_embedding": head.MASK_DIM,
    }
    if in_feature not in channels:
        raise ValueError(
            "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE: expected 'multi_scale_pixel_decoder', "
            f"'transformer_encoder', 'pixel_embedding' or one of {sorted(input_shape)}, "
            f"got {in_feature!r}"
        )
    return pixel_decoder(cfg, input_shape), channels[in_feature]


def _registered(key: str, name: str, available: dict[str, Any], *, on_tokens: bool) -> Any:
    """The module called ``name`` in a config, of those that take what the backbone returns.

    Official files of networks on tokens use the names of the modules on maps. A module on tokens
    has these names as ``on_maps``, and this is the one place that tells the two apart.
    """
    fitting = {
        registered_name: module
        for registered_name, module in available.items()
        if hasattr(module, "on_maps") == on_tokens
    }
    for registered_name, module in fitting.items():
        if name == registered_name or name in getattr(module, "on_maps", ()):
            return module
    kind = "tokens" if on_tokens else "maps"
    problem = f", which does not take the {kind} that the backbone returns"
    raise ValueError(
        f"{key}: expected one of {sorted(fitting)}, got {name!r}{problem * (name in available)}"
    )
