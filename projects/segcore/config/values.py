"""Rules of the config keys of this repository and those it uses of Detectron2."""

import math
import re
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Any

from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    SemanticSegmentor,
)

from segcore.backbones.features import FEATURES
from segcore.config.rules import (
    BACKBONE_SECTIONS,
    MAX_SIDE,
    NORMS,
    Rule,
    add_rules,
    arguments,
    boolean,
    dropout,
    image_size,
    integer,
    list_of,
    named,
    number,
    one_of,
    optional,
    share,
    text,
)
from segcore.data.category_rules import MAX_CATEGORIES
from segcore.inference.merging import STRATEGIES

RESNET_DEPTHS = (18, 34, 50, 101, 152)


def architectures() -> Collection[str]:
    """Return the names of the meta-architectures; of Detectron2's own the one that is supported."""
    return [
        name
        for name, model in META_ARCH_REGISTRY
        if model is SemanticSegmentor or not model.__module__.startswith("detectron2.")
    ]


def mappers() -> Collection[str]:
    from segcore.data.mappers import MAPPERS

    return MAPPERS


def optimizers() -> Collection[str]:
    from segcore.solver import OPTIMIZERS

    return OPTIMIZERS


def lr_schedulers() -> Collection[str]:
    from segcore.solver import LR_SCHEDULERS

    return ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR", *LR_SCHEDULERS]


side = integer(1, MAX_SIDE)
sides = list_of(side)
device = Rule(
    "'cpu', 'cuda' or 'cuda:' and a number",
    lambda value: isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d{1,3})?", value),
)
steps = Rule(
    "a list of rising iterations from 0",
    lambda value: (
        isinstance(value, list | tuple)
        and all(type(step) is int and step >= 0 for step in value)
        and all(a < b for a, b in pairwise(value))
    ),
)


def rows(expected: str, *columns: Callable[[Any], bool]) -> Rule:
    """Rule: a list of rows, with one check for each column."""
    return Rule(
        expected,
        lambda value: (
            isinstance(value, list | tuple)
            and all(
                isinstance(row, list | tuple)
                and len(row) == len(columns)
                and all(accepts(cell) for accepts, cell in zip(columns, row, strict=True))
                for row in value
            )
        ),
    )


def is_text(value: Any) -> bool:
    return isinstance(value, str)


multipliers = rows(
    "a list of pairs [part of a parameter's name, factor]", is_text, number(0).accepts
)
expected_results = rows(
    "a list of [task, metric, value, tolerance]",
    is_text,
    is_text,
    number(-math.inf).accepts,
    number(0).accepts,
)
local_folder = Rule(
    "a local folder",
    lambda value: isinstance(value, str) and bool(value.strip()) and "://" not in value,
)
norm_type = Rule(
    "a number above 0, or .inf",
    lambda value: type(value) in (int, float) and value > 0,
)

add_rules(
    "",
    {
        "OUTPUT_DIR": local_folder,
        "SEED": Rule("an integer below 2**31", lambda value: type(value) is int and value < 2**31),
        "VIS_PERIOD": integer(0),
        "CUDNN_BENCHMARK": boolean(),
        "DETERMINISTIC": boolean(),
    },
)
add_rules(
    "MODEL",
    {
        "META_ARCHITECTURE": named(architectures),
        "DEVICE": device,
        "WEIGHTS": text(),
        "PIXEL_MEAN": list_of(number(-1e6, 1e6), 3),
        "PIXEL_STD": list_of(number(0, 1e6, above=True), 3),
        "BACKBONE.NAME": named(lambda: dict(BACKBONE_REGISTRY)),
        "BACKBONE.FREEZE_AT": integer(0, 5),
        "BACKBONE.FREEZE": integer(0, 1000),
    },
)
add_rules(
    "MODEL.SEM_SEG_HEAD",
    {
        "NAME": named(lambda: dict(SEM_SEG_HEADS_REGISTRY)),
        "IN_FEATURES": list_of(text(empty=False)),
        "IGNORE_VALUE": integer(0, 65_535),
        "NUM_CLASSES": integer(1, MAX_CATEGORIES),
        "CONVS_DIM": integer(1, 65_536),
        "COMMON_STRIDE": one_of(1, 2, 4, 8, 16, 32),
        "NORM": one_of(*NORMS),
        "LOSS_WEIGHT": number(0),
    },
)
add_rules(
    "MODEL.RESNETS",
    {
        "DEPTH": one_of(*RESNET_DEPTHS),
        "OUT_FEATURES": list_of(one_of("stem", *FEATURES)),
        "NUM_GROUPS": integer(1, 1024),
        "NORM": one_of(*NORMS),
        "WIDTH_PER_GROUP": integer(1, 4096),
        "STRIDE_IN_1X1": boolean(),
        "RES5_DILATION": one_of(1, 2),
        "RES2_OUT_CHANNELS": integer(1, 4096),
        "STEM_OUT_CHANNELS": integer(1, 4096),
        "DEFORM_ON_PER_STAGE": list_of(boolean(), 4),
        "DEFORM_MODULATED": boolean(),
        "DEFORM_NUM_GROUPS": integer(1, 1024),
    },
)
add_rules(
    "MODEL.FPN",
    {
        "IN_FEATURES": list_of(one_of(*FEATURES), least=0),
        "OUT_CHANNELS": integer(1, 65_536),
        "NORM": one_of(*NORMS),
        "FUSE_TYPE": one_of("sum", "avg"),
    },
)
add_rules(
    "MODEL.SWIN",
    {
        "PRETRAIN_IMG_SIZE": side,
        "PATCH_SIZE": integer(1, 256),
        "EMBED_DIM": integer(1, 4096),
        "DEPTHS": list_of(integer(1, 256)),
        "NUM_HEADS": list_of(integer(1, 1024)),
        "WINDOW_SIZE": integer(1, 256),
        "MLP_RATIO": number(0, 64, above=True),
        "QKV_BIAS": boolean(),
        "QK_SCALE": optional(number(0, above=True)),
        "DROP_RATE": dropout(),
        "ATTN_DROP_RATE": dropout(),
        "DROP_PATH_RATE": dropout(),
        "APE": boolean(),
        "PATCH_NORM": boolean(),
        "OUT_FEATURES": list_of(one_of(*FEATURES)),
        "USE_CHECKPOINT": boolean(),
    },
)
add_rules(
    "MODEL.PVT",
    {
        "EMBED_DIMS": list_of(integer(1, 4096), len(FEATURES)),
        "NUM_HEADS": list_of(integer(1, 1024), len(FEATURES)),
        "MLP_RATIOS": list_of(number(0, 64, above=True), len(FEATURES)),
        "DEPTHS": list_of(integer(1, 256), len(FEATURES)),
        "SR_RATIOS": list_of(integer(1, 256), len(FEATURES)),
        "DROP_PATH_RATE": dropout(),
        "OUT_FEATURES": list_of(one_of(*FEATURES)),
        "USE_CHECKPOINT": boolean(),
    },
)
add_rules(
    "MODEL.TIMM",
    {
        "NAME": text(empty=False),
        "OUT_INDICES": list_of(integer(-256, 255), least=0),
        "IMG_SIZE": image_size(),
        "PATCH_SIZE": integer(0, 256),
        "DROP_PATH_RATE": dropout(),
        "NORM": one_of("", "BN", "FrozenBN", "SyncBN"),
        "USE_CHECKPOINT": boolean(),
        "PYRAMID_CHANNELS": integer(1, 65_536),
        "ARGUMENTS": arguments(),
    },
)
add_rules(
    "MODEL.PANOPTIC_MERGING",
    {
        "STRATEGY": one_of(*STRATEGIES, ""),
        "QUALITY_THRESHOLD_THINGS": share(),
        "QUALITY_THRESHOLD_STUFF": share(),
        "OVERLAP_THRESHOLD_THINGS": share(),
        "OVERLAP_THRESHOLD_STUFF": share(),
        "CLASS_EXPONENT": number(0),
        "MASK_EXPONENT": number(0),
        "MASK_THRESHOLD": share(),
        "SCORE_THRESHOLD": share(),
        "MIN_VISIBLE_SHARE": share(),
    },
)
add_rules(
    "INPUT",
    {
        "MIN_SIZE_TRAIN": sides,
        "MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
        "MAX_SIZE_TRAIN": side,
        "MIN_SIZE_TEST": integer(0, MAX_SIDE),
        "MAX_SIZE_TEST": side,
        "MAX_PIXELS": integer(1, 10**12),
        "RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
        "FORMAT": one_of("RGB", "BGR"),
        "DATASET_MAPPER_NAME": named(mappers),
        "COLOR_AUG_SSD": boolean(),
        "SIZE_DIVISIBILITY": integer(-1, MAX_SIDE),
        "IMAGE_SIZE": side,
        "MIN_SCALE": number(0, 1000, above=True),
        "MAX_SCALE": number(0, 1000, above=True),
        "CROP.ENABLED": boolean(),
        "CROP.TYPE": one_of("absolute", "absolute_range", "relative", "relative_range"),
        "CROP.SIZE": list_of(number(0, MAX_SIDE, above=True), 2),
        "CROP.SINGLE_CATEGORY_MAX_AREA": number(0, 1, above=True),
        "CROP.RESIZE_MIN_SIZES": sides,
        "CROP.RESIZE_MAX_SIZE": side,
    },
)
add_rules(
    "DATASETS",
    {
        "TRAIN": list_of(text(empty=False), least=0),
        "TEST": list_of(text(empty=False), least=0),
        **{
            f"PANOPTIC.{split}.{name}": text()
            for split in ("TRAIN", "TEST")
            for name in ("IMAGES", "JSON", "PNGS")
        },
    },
)
add_rules(
    "DATALOADER",
    {
        "NUM_WORKERS": integer(0, 1024),
        "ASPECT_RATIO_GROUPING": boolean(),
        "SAMPLER_TRAIN": one_of(
            "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"
        ),
        "REPEAT_THRESHOLD": share(),
        "RANDOM_SUBSET_RATIO": number(0, 1, above=True),
        "FILTER_EMPTY_ANNOTATIONS": boolean(),
    },
)
add_rules(
    "SOLVER",
    {
        "OPTIMIZER": named(optimizers),
        "LR_SCHEDULER_NAME": named(lr_schedulers),
        "MAX_ITER": integer(1),
        "CHECKPOINT_PERIOD": integer(1),
        "IMS_PER_BATCH": integer(1, 10**6),
        "ACCUMULATE": integer(1, 10**6),
        "SHARDED_OPTIMIZER": boolean(),
        "EMA.ENABLED": boolean(),
        "EMA.DECAY": dropout(),
        "EMA.WARMUP": number(1),
        "REFERENCE_WORLD_SIZE": integer(0, 10**6),
        "BASE_LR": number(0, above=True),
        "BASE_LR_END": number(0),
        "BACKBONE_MULTIPLIER": number(0),
        "LR_MULTIPLIERS": multipliers,
        "MOMENTUM": dropout(),
        "NESTEROV": boolean(),
        "WEIGHT_DECAY": number(0),
        "WEIGHT_DECAY_NORM": number(0),
        "WEIGHT_DECAY_EMBED": number(0),
        "WEIGHT_DECAY_POSITION": number(0),
        "WEIGHT_DECAY_1D": optional(number(0)),
        "GAMMA": number(0),
        "STEPS": steps,
        "WARMUP_FACTOR": number(0),
        "WARMUP_ITERS": integer(0),
        "WARMUP_METHOD": one_of("linear", "constant"),
        "POLY_LR_POWER": number(0),
        "POLY_LR_CONSTANT_ENDING": share(),
        "CLIP_GRADIENTS.ENABLED": boolean(),
        "CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm", "full_model"),
        "CLIP_GRADIENTS.CLIP_VALUE": number(0, above=True),
        "CLIP_GRADIENTS.NORM_TYPE": norm_type,
        "AMP.ENABLED": boolean(),
        "AMP.DTYPE": one_of("float16", "bfloat16"),
        "AMP.CPU_BFLOAT16": boolean(),
        "AMP.PIXEL_DECODER": boolean(),
    },
)
add_rules(
    "TEST",
    {
        "EXPECTED_RESULTS": expected_results,
        "EVAL_PERIOD": integer(0),
        "BEST_CHECKPOINT.ENABLED": boolean(),
        "BEST_CHECKPOINT.METRIC": text(empty=False),
        "BEST_CHECKPOINT.MODE": one_of("max", "min"),
        "BEST_CHECKPOINT.PATIENCE": integer(0),
        "DETECTIONS_PER_IMAGE": integer(1, 10**6),
        "IMS_PER_BATCH": integer(1, 10**6),
        "ALLOW_MISSING_WEIGHTS": boolean(),
        "PRECISION": one_of("float32", "bfloat16", "float16"),
        "PANOPTIC_EVALUATOR": one_of("segcore", "panopticapi"),
        "SAVE_PANOPTIC": boolean(),
        "BOUNDARY_AP": boolean(),
        "BOUNDARY_PQ": boolean(),
        "REPORT": boolean(),
        "AUG.ENABLED": boolean(),
        "AUG.MIN_SIZES": sides,
        "AUG.MAX_SIZE": side,
        "AUG.FLIP": boolean(),
        "PRECISE_BN.ENABLED": boolean(),
        "PRECISE_BN.NUM_ITER": integer(1),
    },
)
BACKBONE_SECTIONS.update(
    {
        "build_resnet_backbone": "RESNETS",
        "D2SwinTransformer": "SWIN",
        "PyramidVisionTransformerV2": "PVT",
    }
)
