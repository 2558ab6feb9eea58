"""Keys of EoMT; the defaults are those of the official code."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from mask2former.config import MASK_CLASSIFICATION_RULES
from segcore.config.rules import (
    add_rules,
    arguments,
    boolean,
    dropout,
    image_size,
    integer,
    list_of,
    number,
    relation,
    text,
)

META_ARCHITECTURE = "EoMT"
SCHEDULE = "TwoStageWarmupPolyLR"


def add_eomt_config(cfg: CfgNode) -> None:
    """Add ``MODEL.EOMT`` and the keys of ``SOLVER`` for layer-wise rates, in place."""
    cfg.MODEL.EOMT = eomt = CfgNode()
    eomt.VIT = vit = CfgNode()
    vit.NAME = "vit_large_patch14_reg4_dinov2"
    vit.PATCH_SIZE = 16  # 0: that of the model
    vit.DROP_PATH_RATE = 0.0
    vit.ARGUMENTS = []  # pairs [name, value] for the constructor in timm
    # (height, width) of the network's input; empty: a square of INPUT.IMAGE_SIZE.
    eomt.INPUT_SIZE = []
    eomt.NUM_OBJECT_QUERIES = 200
    eomt.NUM_BLOCKS = 4
    eomt.MASKED_ATTENTION = True
    eomt.DEEP_SUPERVISION = True
    # The pre-trained ViT that a published DINOv3 file holds the difference to.
    eomt.DELTA_BASE = ""

    eomt.ANNEALING = annealing = CfgNode()
    annealing.ENABLED = True
    # Iterations for each of the last blocks; empty: by the length of the training.
    annealing.START_STEPS = []
    annealing.END_STEPS = []
    annealing.POWER = 0.9

    eomt.CLASS_WEIGHT = 2.0
    eomt.MASK_WEIGHT = 5.0
    eomt.DICE_WEIGHT = 5.0
    eomt.NO_OBJECT_WEIGHT = 0.1
    eomt.TRAIN_NUM_POINTS = 12544
    eomt.OVERSAMPLE_RATIO = 3.0
    eomt.IMPORTANCE_SAMPLE_RATIO = 0.75

    eomt.TEST = test = CfgNode()
    test.SEMANTIC_ON = False
    test.INSTANCE_ON = False
    test.PANOPTIC_ON = True
    test.OBJECT_MASK_THRESHOLD = 0.8
    test.OVERLAP_THRESHOLD = 0.8
    test.WINDOWS = False
    test.MASKED_ATTENTION = False

    cfg.SOLVER.LAYER_DECAY = 1.0
    cfg.SOLVER.LAYER_DECAY_LAST_BLOCKS = True
    cfg.SOLVER.WARMUP_STAGES = [500, 1000]


def input_size(cfg: CfgNode) -> tuple[int, int]:
    """Return (height, width) of the network's input."""
    height, width = cfg.MODEL.EOMT.INPUT_SIZE or (cfg.INPUT.IMAGE_SIZE,) * 2
    return height, width


add_rules(
    "MODEL.EOMT",
    {
        "VIT.NAME": text(empty=False),
        "VIT.PATCH_SIZE": integer(0, 256),
        "VIT.DROP_PATH_RATE": dropout(),
        "VIT.ARGUMENTS": arguments(),
        "INPUT_SIZE": image_size(),
        "NUM_OBJECT_QUERIES": integer(1, 65_536),
        "NUM_BLOCKS": integer(1, 256),
        "MASKED_ATTENTION": boolean(),
        "DELTA_BASE": text(),
        "ANNEALING.ENABLED": boolean(),
        "ANNEALING.START_STEPS": list_of(integer(0), least=0),
        "ANNEALING.END_STEPS": list_of(integer(0), least=0),
        "ANNEALING.POWER": number(0, 100, above=True),
        **MASK_CLASSIFICATION_RULES,
        "TEST.WINDOWS": boolean(),
        "TEST.MASKED_ATTENTION": boolean(),
    },
)
add_rules(
    "SOLVER",
    {
        "LAYER_DECAY": number(0, 1, above=True),
        "LAYER_DECAY_LAST_BLOCKS": boolean(),
        "WARMUP_STAGES": list_of(integer(0), 2),
    },
)


@relation("MODEL", "INPUT.IMAGE_SIZE", "SOLVER")
def _eomt(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together in EoMT."""
    if cfg.MODEL.META_ARCHITECTURE != META_ARCHITECTURE:
        if cfg.SOLVER.LR_SCHEDULER_NAME == SCHEDULE:
            yield (
                f"SOLVER.LR_SCHEDULER_NAME: {SCHEDULE} is for MODEL.META_ARCHITECTURE "
                f"{META_ARCHITECTURE!r}, got {cfg.MODEL.META_ARCHITECTURE!r}"
            )
        return
    eomt = cfg.MODEL.EOMT
    size, patch = input_size(cfg), eomt.VIT.PATCH_SIZE
    key = "MODEL.EOMT.INPUT_SIZE" if eomt.INPUT_SIZE else "INPUT.IMAGE_SIZE"
    if patch and any(side % patch for side in size):
        yield f"{key}: expected a multiple of MODEL.EOMT.VIT.PATCH_SIZE, {patch}, got {size}"
    starts, ends = eomt.ANNEALING.START_STEPS, eomt.ANNEALING.END_STEPS
    if (starts or ends) and not len(starts) == len(ends) == eomt.NUM_BLOCKS:
        yield (
            f"MODEL.EOMT.ANNEALING: expected START_STEPS and END_STEPS for each of the "
            f"{eomt.NUM_BLOCKS} blocks of MODEL.EOMT.NUM_BLOCKS, or none, got {len(starts)} and "
            f"{len(ends)}"
        )
    elif any(start >= end for start, end in zip(starts, ends, strict=True)):
        yield (
            "MODEL.EOMT.ANNEALING.END_STEPS: expected each above its item of START_STEPS, "
            f"{list(starts)}, got {list(ends)}"
        )
    test = eomt.TEST
    if test.WINDOWS and (test.INSTANCE_ON or test.PANOPTIC_ON or not test.SEMANTIC_ON):
        yield "MODEL.EOMT.TEST.WINDOWS: expected False unless SEMANTIC_ON alone is True, got True"
    if test.WINDOWS and size[0] != size[1]:
        yield f"{key}: expected a square, as MODEL.EOMT.TEST.WINDOWS is True, got {size}"
