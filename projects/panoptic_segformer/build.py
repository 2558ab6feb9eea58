"""The network between backbone and results, of the config ``MODEL.PANOPTIC_SEGFORMER``."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from panoptic_segformer.batching import padding_policy_of
from panoptic_segformer.encoder import MultiScaleEncoder
from panoptic_segformer.encoder_attention import ENCODER_ATTENTIONS
from panoptic_segformer.location_decoder import LocationDecoder
from panoptic_segformer.location_kinds import location_kind_of
from panoptic_segformer.mask_decoder import NUM_MASK_LEVELS, MaskDecoder
from panoptic_segformer.neck import ChannelMapper
from segcore.backbones.features import are_tokens


def build_network(
    panoptic_segformer: CfgNode, shapes: Mapping[str, ShapeSpec], *, num_things: int
) -> dict[str, Any]:
    """Build the parts of :class:`PanopticSegFormer`, by the names of its arguments.

    Args:
        panoptic_segformer: the config ``MODEL.PANOPTIC_SEGFORMER``.
        shapes: of the features of the backbone.
        num_things: classes of the thing queries.

    Raises:
        ValueError: a key has a value that cannot be.
    """
    attention = {
        "embed_dim": panoptic_segformer.HIDDEN_DIM,
        "num_heads": panoptic_segformer.NHEADS,
        "feedforward_dim": panoptic_segformer.DIM_FEEDFORWARD,
    }
    deformable = {
        **attention,
        "num_levels": len(panoptic_segformer.IN_FEATURES) + 1,
        "dropout": panoptic_segformer.DROPOUT,
    }
    mask_decoder = {**attention, "recompute": panoptic_segformer.CHECKPOINT_MASK_DECODERS}
    in_channels = _in_channels(shapes, panoptic_segformer.IN_FEATURES)
    location_kind = location_kind_of(panoptic_segformer)
    return {
        "in_features": panoptic_segformer.IN_FEATURES,
        "neck": ChannelMapper(in_channels, panoptic_segformer.HIDDEN_DIM),
        "encoder": MultiScaleEncoder(
            num_layers=panoptic_segformer.ENC_LAYERS,
            attention=ENCODER_ATTENTIONS[panoptic_segformer.ENCODER_ATTENTION],
            **deformable,
        ),
        "location_decoder": LocationDecoder(
            num_queries=panoptic_segformer.NUM_THING_QUERIES,
            num_classes=num_things,
            num_layers=panoptic_segformer.LOCATION_LAYERS,
            num_coordinates=location_kind.num_coordinates,
            **deformable,
        ),
        "thing_mask_decoder": MaskDecoder(
            num_layers=panoptic_segformer.THING_MASK_LAYERS, self_attention=False, **mask_decoder
        ),
        "stuff_mask_decoder": MaskDecoder(
            num_layers=panoptic_segformer.STUFF_MASK_LAYERS, self_attention=True, **mask_decoder
        ),
        "location_kind": location_kind,
        "padding_policy": padding_policy_of(panoptic_segformer),
        "size_divisibility": panoptic_segformer.SIZE_DIVISIBILITY,
    }


def _in_channels(shapes: Mapping[str, ShapeSpec], in_features: list[str]) -> list[int]:
    """Channels of the features that the neck takes."""
    if are_tokens(shapes):
        raise ValueError(
            "MODEL.BACKBONE.NAME: expected a backbone that returns maps, got one that returns "
            "tokens (AutoFocusFormerGrid makes maps of those of AutoFocusFormer)"
        )
    strides = [shapes[name].stride for name in in_features if name in shapes]
    doubled = [stride * 2 for stride in strides]
    if not len(in_features) == len(strides) == NUM_MASK_LEVELS or strides[1:] != doubled[:-1]:
        known = {name: shape.stride for name, shape in shapes.items()}
        raise ValueError(
            f"MODEL.PANOPTIC_SEGFORMER.IN_FEATURES: expected {NUM_MASK_LEVELS} features of rising "
            f"stride, such as 8, 16 and 32, each twice the one before, got {list(in_features)}; "
            f"the backbone has (with strides) {known}"
        )
    return [shapes[name].channels for name in in_features]
