"""Keys of Panoptic SegFormer, with the settings of the published configurations."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from segcore.config.rules import (
    add_rules,
    boolean,
    dropout,
    integer,
    keys_with_sync_norm,
    list_of,
    number,
    one_of,
    relation,
    text,
    unknown_features,
)


def add_panoptic_segformer_config(cfg: CfgNode) -> None:
    """Add ``MODEL.PANOPTIC_SEGFORMER``, in place."""
    cfg.MODEL.PANOPTIC_SEGFORMER = panoptic_segformer = CfgNode()
    panoptic_segformer.IN_FEATURES = ["res3", "res4", "res5"]
    panoptic_segformer.HIDDEN_DIM = 256
    panoptic_segformer.NHEADS = 8
    panoptic_segformer.DIM_FEEDFORWARD = 1024
    panoptic_segformer.DROPOUT = 0.1
    panoptic_segformer.NUM_THING_QUERIES = 300
    panoptic_segformer.ENC_LAYERS = 6
    panoptic_segformer.LOCATION_LAYERS = 6
    # Blocks before the tail, which gives the final mask.
    panoptic_segformer.THING_MASK_LAYERS = 4
    panoptic_segformer.STUFF_MASK_LAYERS = 6
    # What the location decoder predicts: "box", or "centre", the center of mass of the mask. With
    # "none" it learns classes alone.
    panoptic_segformer.LOCATION_TARGET = "box"
    # Ours, for ablations, see docs/ablations.md.
    panoptic_segformer.JOINT_QUERIES = False
    panoptic_segformer.ENCODER_ATTENTION = "multi_scale"
    # Padded sizes, of the masks in the losses or, as in the original, of batches, are multiples.
    panoptic_segformer.SIZE_DIVISIBILITY = 1
    # As the original: padding takes part in the masks, which are resized without cutting it off.
    panoptic_segformer.OFFICIAL_PADDING = False
    # As the original: no stuff class loss where no image of a process has a thing.
    panoptic_segformer.OFFICIAL_EMPTY_THINGS = False
    # Recompute the attention of the mask decoders in the backward pass, to save memory.
    panoptic_segformer.CHECKPOINT_MASK_DECODERS = False

    panoptic_segformer.CLASS_WEIGHT = 2.0
    panoptic_segformer.L1_WEIGHT = 5.0
    panoptic_segformer.GIOU_WEIGHT = 2.0
    panoptic_segformer.DICE_WEIGHT = 2.0

    panoptic_segformer.TEST = CfgNode()
    panoptic_segformer.TEST.SEMANTIC_ON = True
    panoptic_segformer.TEST.INSTANCE_ON = True
    panoptic_segformer.TEST.PANOPTIC_ON = True


add_rules(
    "MODEL.PANOPTIC_SEGFORMER",
    {
        "IN_FEATURES": list_of(text(empty=False), 3),
        "HIDDEN_DIM": integer(1, 65_536),
        "NHEADS": integer(1, 1024),
        "DIM_FEEDFORWARD": integer(1, 65_536),
        "DROPOUT": dropout(),
        "NUM_THING_QUERIES": integer(1, 65_536),
        "ENC_LAYERS": integer(0, 256),
        "LOCATION_LAYERS": integer(1, 256),
        "THING_MASK_LAYERS": integer(0, 256),
        "STUFF_MASK_LAYERS": integer(0, 256),
        "LOCATION_TARGET": one_of("box", "centre", "none"),
        "JOINT_QUERIES": boolean(),
        "ENCODER_ATTENTION": one_of("multi_scale", "single_scale", "plain"),
        "SIZE_DIVISIBILITY": integer(-1, 4096),
        "OFFICIAL_PADDING": boolean(),
        "OFFICIAL_EMPTY_THINGS": boolean(),
        "CHECKPOINT_MASK_DECODERS": boolean(),
        "CLASS_WEIGHT": number(0),
        "L1_WEIGHT": number(0),
        "GIOU_WEIGHT": number(0),
        "DICE_WEIGHT": number(0),
        "TEST.SEMANTIC_ON": boolean(),
        "TEST.INSTANCE_ON": boolean(),
        "TEST.PANOPTIC_ON": boolean(),
    },
)


@relation("MODEL")
def _panoptic_segformer(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in the network."""
    if cfg.MODEL.META_ARCHITECTURE != "PanopticSegFormer":
        return
    panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    key = "MODEL.PANOPTIC_SEGFORMER.IN_FEATURES"
    yield from unknown_features(cfg, key, panoptic_segformer.IN_FEATURES)
    # Norms have 32 groups.
    hidden_dim, num_heads = panoptic_segformer.HIDDEN_DIM, panoptic_segformer.NHEADS
    if hidden_dim % num_heads or hidden_dim % 32:
        yield (
            "MODEL.PANOPTIC_SEGFORMER.HIDDEN_DIM: expected a multiple of 32 and of "
            f"MODEL.PANOPTIC_SEGFORMER.NHEADS, {num_heads}, got {hidden_dim}"
        )
    if not panoptic_segformer.OFFICIAL_PADDING:
        # The network runs once for each image size, in each process another number of times.
        for key in keys_with_sync_norm(cfg.MODEL, "MODEL."):
            yield (
                f"{key}: expected a norm without synchronization, such as 'FrozenBN' or 'GN', as "
                "MODEL.PANOPTIC_SEGFORMER.OFFICIAL_PADDING is False: processes would wait for each "
                "other for ever"
            )
