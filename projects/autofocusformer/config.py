"""Keys of AutoFocusFormer, with the official names and code defaults."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from autofocusformer.classification.config import CLASSIFIER, add_classification_config
from segcore.backbones.features import FEATURES
from segcore.config.rules import (
    BACKBONE_SECTIONS,
    add_rules,
    boolean,
    dropout,
    equally_long,
    indivisible_heads,
    integer,
    list_of,
    number,
    one_of,
    relation,
    unknown_outputs,
)

BACKBONES = ("AutoFocusFormer", "AutoFocusFormerGrid")


def add_autofocusformer_config(cfg: CfgNode) -> None:
    """Add ``MODEL.AFF`` and the keys of classification, in place; all else is Mask2Former's."""
    add_classification_config(cfg)
    cfg.MODEL.AFF = aff = CfgNode()
    aff.EMBED_DIM = [32, 128, 256, 384]
    aff.DEPTHS = [2, 2, 6, 2]
    aff.NUM_HEADS = [3, 6, 12, 24]
    aff.MLP_RATIO = 2.0
    aff.CLUSTER_SIZE = 8
    aff.NBHD_SIZE = [48, 48, 48, 48]
    aff.LAYER_SCALE = 0.0
    # Weight of the importance against the grid, and share of the tokens that a stage keeps.
    aff.ALPHA = 4.0
    aff.DS_RATE = 0.25
    aff.RESERVE = True
    aff.DROP_RATE = 0.0
    aff.ATTN_DROP_RATE = 0.0
    aff.DROP_PATH_RATE = 0.3
    aff.PATCH_NORM = True
    aff.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Of the pixel decoder; acts on the distance, and so halved on the squared distance.
    aff.SHEPARD_POWER = 6.0
    aff.SHEPARD_POWER_LEARNABLE = True
    # Ours: the result of a photo does not depend on the others in its batch. Published weights were
    # trained without.
    aff.PER_IMAGE = False
    # Ours, for ablations, see docs/ablations.md.
    aff.BLANK_TOKEN = True
    aff.GRID_PRIOR = True
    aff.PLAIN_OFFSETS = False


add_rules(
    "MODEL.AFF",
    {
        "EMBED_DIM": list_of(integer(1, 4096)),
        "DEPTHS": list_of(integer(1, 256)),
        "NUM_HEADS": list_of(integer(1, 1024)),
        "MLP_RATIO": number(0, 64, above=True),
        "CLUSTER_SIZE": integer(1, 4096),
        "NBHD_SIZE": list_of(integer(1, 65_536)),
        "LAYER_SCALE": number(0),
        "ALPHA": number(0),
        "DS_RATE": number(0, 1, above=True),
        "RESERVE": boolean(),
        "DROP_RATE": dropout(),
        "ATTN_DROP_RATE": one_of(0.0),
        "DROP_PATH_RATE": dropout(),
        "PATCH_NORM": boolean(),
        "OUT_FEATURES": list_of(one_of(*FEATURES)),
        "SHEPARD_POWER": number(0, 100, above=True),
        "SHEPARD_POWER_LEARNABLE": boolean(),
        "PER_IMAGE": boolean(),
        "BLANK_TOKEN": boolean(),
        "GRID_PRIOR": boolean(),
        "PLAIN_OFFSETS": boolean(),
    },
)
BACKBONE_SECTIONS.update(dict.fromkeys(BACKBONES, "AFF"))


@relation("MODEL.AFF", "MODEL.BACKBONE.NAME", "MODEL.META_ARCHITECTURE")
def _stages(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in the backbone."""
    aff = cfg.MODEL.AFF
    if cfg.MODEL.META_ARCHITECTURE != CLASSIFIER and cfg.MODEL.BACKBONE.NAME not in BACKBONES:
        return
    lists = ("EMBED_DIM", "DEPTHS", "NUM_HEADS", "NBHD_SIZE")
    yield from equally_long("MODEL.AFF", aff, lists)
    yield from indivisible_heads("MODEL.AFF", aff.EMBED_DIM, aff.NUM_HEADS)
    yield from unknown_outputs("MODEL.AFF", aff)
