"""Keys of Mask2Former, with the official names and code defaults."""

import math
from collections.abc import Collection, Iterator

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from segcore.backbones.features import FEATURES
from segcore.config.rules import (
    BACKBONE_SECTIONS,
    add_rules,
    boolean,
    dropout,
    integer,
    list_of,
    named,
    number,
    one_of,
    relation,
    share,
    text,
    unknown_features,
)

NUM_MAPS = 3  # that the transformer decoder attends to
# To the maps, and content of the queries before the first layer, of the masked decoders.
ATTENTIONS = ("masked", "plain", "pooled")
QUERY_INITS = ("learned", "zero", "pixel_decoder")
# Keys of the masked decoders -> value where they do not count.
MASKED_DECODER = {"ATTENTION": "masked", "FEATURE_LEVELS": [0, 1, 2], "QUERY_INIT": "learned"}
# Section of a meta-architecture, or its name -> heads of this package that it takes.
HEADS = {
    "MASK_FORMER": ("MaskFormerHead",),
    "SemanticSegmentor": ("PerPixelBaselineHead", "PerPixelBaselinePlusHead"),
}
MAPS = ("multi_scale_pixel_decoder", "transformer_encoder", "pixel_embedding")


def add_mask2former_config(cfg: CfgNode) -> None:
    """Add ``MODEL.MASK_FORMER`` and the head's keys of ``MODEL.SEM_SEG_HEAD``, in place."""
    cfg.MODEL.MASK_FORMER = mask_former = CfgNode()
    mask_former.DEEP_SUPERVISION = True
    mask_former.NO_OBJECT_WEIGHT = 0.1
    mask_former.CLASS_WEIGHT = 1.0
    mask_former.DICE_WEIGHT = 1.0
    mask_former.MASK_WEIGHT = 20.0

    mask_former.NHEADS = 8
    mask_former.DROPOUT = 0.1
    mask_former.DIM_FEEDFORWARD = 2048
    mask_former.ENC_LAYERS = 0
    # Layers of StandardTransformerDecoder. Of the masked decoders predictions, one before the first
    # layer included: 10 means 9 layers.
    mask_former.DEC_LAYERS = 6
    mask_former.PRE_NORM = False
    mask_former.HIDDEN_DIM = 256
    mask_former.NUM_OBJECT_QUERIES = 100
    mask_former.TRANSFORMER_IN_FEATURE = "res5"
    mask_former.ENFORCE_INPUT_PROJ = False
    mask_former.SIZE_DIVISIBILITY = 32
    mask_former.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"

    mask_former.TRAIN_NUM_POINTS = 112 * 112
    mask_former.OVERSAMPLE_RATIO = 3.0
    mask_former.IMPORTANCE_SAMPLE_RATIO = 0.75

    # Ours: what the paper's ablations vary, see docs/ablations.md.
    mask_former.ATTENTION = "masked"
    mask_former.FEATURE_LEVELS = [0, 1, 2]  # that the layers attend to in turn, coarse to fine
    mask_former.QUERY_INIT = "learned"
    mask_former.LOSS_SAMPLING = "points"
    mask_former.CRITERION = "points"  # or "focal", that of MaskFormer

    mask_former.TEST = CfgNode()
    mask_former.TEST.SEMANTIC_ON = True
    mask_former.TEST.INSTANCE_ON = False
    mask_former.TEST.PANOPTIC_ON = False
    mask_former.TEST.OBJECT_MASK_THRESHOLD = 0.0
    mask_former.TEST.OVERLAP_THRESHOLD = 0.0
    mask_former.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False

    head = cfg.MODEL.SEM_SEG_HEAD
    head.MASK_DIM = 256
    head.TRANSFORMER_ENC_LAYERS = 0
    head.PIXEL_DECODER_NAME = "BasePixelDecoder"
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    # Both exist in official files and are read by nothing: 4 points, heads by MASK_FORMER.NHEADS.
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8


def pixel_decoders() -> Collection[str]:
    """Names of the pixel decoders."""
    return [name for name, head in SEM_SEG_HEADS_REGISTRY if hasattr(head, "forward_features")]


def transformer_decoders() -> Collection[str]:
    """Names of the transformer decoders."""
    from mask2former.transformer_decoder import TRANSFORMER_DECODER_REGISTRY

    return dict(TRANSFORMER_DECODER_REGISTRY)


# Keys of mask classification, which other systems have in sections of their own.
MASK_CLASSIFICATION_RULES = {
    "DEEP_SUPERVISION": boolean(),
    "NO_OBJECT_WEIGHT": number(0),
    "CLASS_WEIGHT": number(0),
    "DICE_WEIGHT": number(0),
    "MASK_WEIGHT": number(0),
    "TRAIN_NUM_POINTS": integer(1, 10**7),
    "OVERSAMPLE_RATIO": number(1, 1000),
    "IMPORTANCE_SAMPLE_RATIO": share(),
    "TEST.SEMANTIC_ON": boolean(),
    "TEST.INSTANCE_ON": boolean(),
    "TEST.PANOPTIC_ON": boolean(),
    "TEST.OBJECT_MASK_THRESHOLD": share(),
    "TEST.OVERLAP_THRESHOLD": share(),
}
add_rules(
    "MODEL.MASK_FORMER",
    {
        **MASK_CLASSIFICATION_RULES,
        "NHEADS": integer(1, 1024),
        "DROPOUT": dropout(),
        "DIM_FEEDFORWARD": integer(1, 65_536),
        "ENC_LAYERS": integer(0, 256),
        "DEC_LAYERS": integer(1, 256),
        "PRE_NORM": boolean(),
        "HIDDEN_DIM": integer(1, 65_536),
        "NUM_OBJECT_QUERIES": integer(1, 65_536),
        "TRANSFORMER_IN_FEATURE": text(empty=False),
        "ENFORCE_INPUT_PROJ": boolean(),
        "SIZE_DIVISIBILITY": integer(-1, 4096),
        "TRANSFORMER_DECODER_NAME": named(transformer_decoders),
        "ATTENTION": one_of(*ATTENTIONS),
        "FEATURE_LEVELS": list_of(integer(0, NUM_MAPS - 1)),
        "QUERY_INIT": one_of(*QUERY_INITS),
        "LOSS_SAMPLING": one_of("points", "masks"),
        "CRITERION": one_of("points", "focal"),
        "TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": boolean(),
    },
)
add_rules(
    "MODEL.SEM_SEG_HEAD",
    {
        "MASK_DIM": integer(1, 65_536),
        "PIXEL_DECODER_NAME": named(pixel_decoders),
        "TRANSFORMER_ENC_LAYERS": integer(0, 256),
        "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": list_of(text(empty=False)),
    },
)


@relation("MODEL")
def _mask2former(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in the heads of this package."""
    head = cfg.MODEL.SEM_SEG_HEAD
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if head.NAME not in HEADS.get(getattr(model, "config_section", model.__name__), ()):
        return
    yield from unknown_features(cfg, "MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES)
    if head.PIXEL_DECODER_NAME == "MSDeformAttnPixelDecoder":
        yield from _deformable_encoder(cfg)
    if head.NAME != "PerPixelBaselineHead":
        yield from _transformer_decoder(cfg)
    yield from _widths(cfg)


def _deformable_encoder(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in MSDeformAttnPixelDecoder."""
    head = cfg.MODEL.SEM_SEG_HEAD
    encoded = head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES
    if not set(encoded) <= set(head.IN_FEATURES):
        yield (
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: expected some of "
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES, {list(head.IN_FEATURES)}, got {list(encoded)}"
        )
    elif set(head.IN_FEATURES) <= set(FEATURES):
        backbone = cfg.MODEL.get(BACKBONE_SECTIONS.get(cfg.MODEL.BACKBONE.NAME), {})
        finest, finest_encoded = (
            backbone.get("PATCH_SIZE", 4) * 2 ** min(map(FEATURES.index, features))
            for features in (head.IN_FEATURES, encoded)
        )
        if not finest <= head.COMMON_STRIDE <= finest_encoded:
            yield (
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE: expected {finest} to {finest_encoded}, the "
                "strides of the finest of IN_FEATURES and of "
                f"DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES, got {head.COMMON_STRIDE}"
            )
        elif len(set(encoded)) + int(math.log2(finest_encoded / head.COMMON_STRIDE)) < NUM_MAPS:
            yield (
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: expected "
                f"{NUM_MAPS} maps or more, of these features and of the halvings of their stride "
                f"down to COMMON_STRIDE, {head.COMMON_STRIDE}, got {list(encoded)}"
            )


def _transformer_decoder(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in the transformer decoder and what it is given."""
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    maps, decoder = mask_former.TRANSFORMER_IN_FEATURE, mask_former.TRANSFORMER_DECODER_NAME
    key = "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE"
    if head.NAME == "PerPixelBaselinePlusHead":
        decoder = "StandardTransformerDecoder"
    if maps not in (*MAPS, *head.IN_FEATURES):
        yield (
            f"{key}: expected one of {', '.join(MAPS)} or a feature of the backbone, got {maps!r}"
        )
    elif decoder == "StandardTransformerDecoder" and maps == "multi_scale_pixel_decoder":
        yield f"{key}: expected one map, which {decoder} attends to, got the list {maps!r}"
    elif maps == "transformer_encoder" and head.PIXEL_DECODER_NAME == "BasePixelDecoder":
        yield f"{key}: expected another map than {maps!r}: BasePixelDecoder has no encoder"
    if decoder == "StandardTransformerDecoder":
        for key, default in MASKED_DECODER.items():
            if mask_former[key] != default:
                yield (
                    f"MODEL.MASK_FORMER.{key}: expected {default!r}, as {decoder} has no masked "
                    f"attention to several maps, got {mask_former[key]!r}"
                )
    if decoder == "MultiScaleMaskedTransformerDecoder" and mask_former.DEC_LAYERS < 2:
        yield (
            f"MODEL.MASK_FORMER.DEC_LAYERS: expected at least 2, as {decoder} counts its "
            f"predictions, one more than its layers, got {mask_former.DEC_LAYERS}"
        )


def _widths(cfg: CfgNode) -> Iterator[str]:
    """Yield channels that heads, norms of 32 groups or the position encodings do not divide."""
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    for key, dim, step in (
        ("MASK_FORMER.HIDDEN_DIM", mask_former.HIDDEN_DIM, 4),  # sine and cosine of x and y
        ("SEM_SEG_HEAD.CONVS_DIM", head.CONVS_DIM, 32),
    ):
        if dim % mask_former.NHEADS or dim % step:
            yield (
                f"MODEL.{key}: expected a multiple of {step} and of MODEL.MASK_FORMER.NHEADS, "
                f"{mask_former.NHEADS}, got {dim}"
            )
