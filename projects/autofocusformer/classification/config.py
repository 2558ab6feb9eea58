"""Keys of image classification, on folders that have a sub-folder of images for each class."""

import re
from collections.abc import Iterator

from detectron2.config import CfgNode

from segcore.config.rules import (
    Rule,
    add_rules,
    boolean,
    dropout,
    integer,
    number,
    relation,
    share,
    text,
)

CLASSIFIER = "AutoFocusFormerClassifier"
CLASSIFICATION_MAPPER = "image_classification"


def add_classification_config(cfg: CfgNode) -> None:
    """Add the keys of data, model and augmentation, in place."""
    cfg.DATASETS.IMAGE_FOLDER = CfgNode({"TRAIN": "", "TEST": ""})

    cfg.MODEL.CLASSIFIER = CfgNode()
    # DATASETS.IMAGE_FOLDER, where set, decides.
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.1

    # Squares of INPUT.IMAGE_SIZE pixels.
    cfg.INPUT.CLASSIFICATION = options = CfgNode()
    # In timm's notation. Without it, and only then, colors are jittered.
    options.AUTO_AUGMENT = "rand-m9-mstd0.5-inc1"
    options.COLOR_JITTER = 0.4
    # Share of the images in which a rectangle becomes noise.
    options.ERASING_PROB = 0.25
    # Parameters of the beta distributions of mixing factors; 0 switches off.
    options.MIXUP_ALPHA = 0.8
    options.CUTMIX_ALPHA = 1.0
    # Share of the batches that are mixed, and of these of CutMix where both are on.
    options.MIX_PROB = 1.0
    options.CUTMIX_PROB = 0.5
    # In tests, cut out the centre; else squeeze the whole image into the square.
    options.CENTER_CROP_TEST = True


auto_augment = Rule(
    "a policy in timm's notation, such as 'rand-m9-mstd0.5-inc1', or ''",
    lambda value: (
        isinstance(value, str)
        and re.fullmatch(
            r"|(rand|augmix)(-(m|n|p|mstd|mmax|inc|w|d|b)\d+(\.\d+)?|-t\w+)*"
            r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?",
            value,
        )
    ),
)
add_rules(
    "DATASETS.IMAGE_FOLDER",
    {
        "TRAIN": text(),
        "TEST": text(),
    },
)
add_rules(
    "MODEL.CLASSIFIER",
    {
        "NUM_CLASSES": integer(1, 10**6),
        "LABEL_SMOOTHING": dropout(),
    },
)
add_rules(
    "INPUT.CLASSIFICATION",
    {
        "AUTO_AUGMENT": auto_augment,
        "COLOR_JITTER": number(0, 100),
        "ERASING_PROB": share(),
        "MIXUP_ALPHA": number(0, 1000),
        "CUTMIX_ALPHA": number(0, 1000),
        "MIX_PROB": share(),
        "CUTMIX_PROB": share(),
        "CENTER_CROP_TEST": boolean(),
    },
)


@relation("MODEL.META_ARCHITECTURE", "INPUT", "SOLVER")
def _classification(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together with classification."""
    classifies = cfg.MODEL.META_ARCHITECTURE == CLASSIFIER
    mapper = cfg.INPUT.DATASET_MAPPER_NAME
    if classifies != (mapper == CLASSIFICATION_MAPPER):
        yield (
            f"INPUT.DATASET_MAPPER_NAME: expected {CLASSIFICATION_MAPPER!r} with "
            f"MODEL.META_ARCHITECTURE {CLASSIFIER!r}, and with no other, got {mapper!r} with "
            f"{cfg.MODEL.META_ARCHITECTURE!r}"
        )
    if not classifies:
        return
    if cfg.INPUT.FORMAT != "RGB":
        yield f"INPUT.FORMAT: expected 'RGB' for image classification, got {cfg.INPUT.FORMAT!r}"
    options, batch = cfg.INPUT.CLASSIFICATION, cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE
    if (options.MIXUP_ALPHA or options.CUTMIX_ALPHA) and batch % 2:
        yield (
            "SOLVER.IMS_PER_BATCH: expected an even number, as mixup and CutMix "
            f"(INPUT.CLASSIFICATION.MIXUP_ALPHA, CUTMIX_ALPHA) work on pairs, got {batch}"
        )
