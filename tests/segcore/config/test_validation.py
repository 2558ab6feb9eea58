"""Config values: out of range, or not going together, is said before anything is built."""

import math
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from segcore.config import get_cfg, load_config, require_datasets, validate_config
from segcore.config.merging import all_keys
from segcore.config.rules import RULES
from segcore.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
COMPLETE = sorted(path for path in CONFIGS.glob("*/**/*.yaml") if "_base_" not in path.parts)
SYSTEMS = {
    "mask2former": "quickstart/mask2former_R18.yaml",
    "autofocusformer": "quickstart/autofocusformer_demo.yaml",
    "panoptic_segformer": "quickstart/panoptic_segformer_R18.yaml",
    "classifier": "imagenet/classification/aff_small.yaml",
    "swin": "coco/panoptic-segmentation/swin/maskformer2_swin_tiny_bs16_50ep.yaml",
    "pvt": "coco/panoptic-segmentation/panoptic_segformer_pvtv2_b0_24e.yaml",
    "crop": "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml",
}
nan, inf = math.nan, math.inf

WRONG = [
    *[
        ("mask2former", key, value)
        for key, values in {
            "SOLVER.MAX_ITER": [0, -1],
            "SOLVER.CHECKPOINT_PERIOD": [0, -5],
            "SOLVER.BASE_LR": [0.0, -0.1, nan, inf],
            "SOLVER.WEIGHT_DECAY": [-1.0, nan],
            "SOLVER.BACKBONE_MULTIPLIER": [-1.0, inf],
            "SOLVER.LR_MULTIPLIERS": [["a"], [["a", -1.0]], [["a", nan]], [[1, 2]]],
            "SOLVER.IMS_PER_BATCH": [0, -2],
            "SOLVER.ACCUMULATE": [0, 3],
            "SOLVER.EMA.DECAY": [1.0, -0.1],
            "SOLVER.EMA.WARMUP": [0, nan],
            "SOLVER.REFERENCE_WORLD_SIZE": [-1, 3],
            "SOLVER.STEPS": [(5, 3), (3, 3), (-1,), (1.5,), ("a",)],
            "SOLVER.GAMMA": [-0.1, nan],
            "SOLVER.MOMENTUM": [1.0, -0.1],
            "SOLVER.OPTIMIZER": ["ADAM", "", None],
            "SOLVER.LR_SCHEDULER_NAME": ["Warmup", "cosine"],
            "SOLVER.WARMUP_METHOD": ["exponential"],
            "SOLVER.WARMUP_ITERS": [-1],
            "SOLVER.AMP.DTYPE": ["float8", "half"],
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ["full"],
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": [0.0, -1.0, nan],
            "TEST.BEST_CHECKPOINT.MODE": ["best"],
            "TEST.BEST_CHECKPOINT.ENABLED": [True, 1],  # without TEST.EVAL_PERIOD
            "MODEL.BACKBONE.FREEZE": [-1, True],
            "SEED": [2**32, None],
            "OUTPUT_DIR": ["", " ", None, "s3://bucket/run", "http://host/run"],
            "INPUT.IMAGE_SIZE": [0, -1, 100_000],
            "INPUT.MIN_SCALE": [0.0, -1.0, 5.0, nan],
            "INPUT.MAX_SCALE": [0.0, inf],
            "INPUT.MAX_PIXELS": [0, -1],
            "INPUT.FORMAT": ["rgb", "CMYK"],
            "INPUT.RANDOM_FLIP": ["both", ""],
            "INPUT.DATASET_MAPPER_NAME": ["coco_panoptic", "image_classification"],
            "INPUT.MIN_SIZE_TRAIN": [(), (0,), (-1,), ("a",), (1.5,)],
            "INPUT.MAX_SIZE_TRAIN": [0, 700],
            "INPUT.MIN_SIZE_TEST": [-1, 300],
            "INPUT.MAX_SIZE_TEST": [0, 100],
            "MODEL.META_ARCHITECTURE": ["Maskformer", "GeneralizedRCNN", ""],
            "MODEL.BACKBONE.NAME": ["build_resnet", "resnet50", "build_resnet_fpn_backbone"],
            "MODEL.BACKBONE.FREEZE_AT": [-1, 6],
            "MODEL.DEVICE": ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda0"],
            "MODEL.PIXEL_MEAN": [[1.0], [1.0] * 4, [nan] * 3, []],
            "MODEL.PIXEL_STD": [[0.0, 1.0, 1.0], [1.0], [inf] * 3, [-1.0] * 3],
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": [0, -1, 10**9],
            "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": [-1, 10**6],
            "MODEL.SEM_SEG_HEAD.IN_FEATURES": [[], ["res9"], [3]],
            "MODEL.SEM_SEG_HEAD.NAME": ["MaskFormerHed"],
            "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ["MSDeformAttn", "MaskFormerHead"],
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": [0, 100],
            "MODEL.SEM_SEG_HEAD.NORM": ["XN"],
            "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": [3, 0, 2, 16],
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": [
                [],
                ["res9"],
                ["res2", "res3"],
            ],
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": [0, -1],
            "MODEL.MASK_FORMER.HIDDEN_DIM": [0, 130],
            "MODEL.MASK_FORMER.NHEADS": [0, 7],
            "MODEL.MASK_FORMER.DEC_LAYERS": [0, 1],
            "MODEL.MASK_FORMER.DROPOUT": [-0.1, 1.0, nan],
            "MODEL.MASK_FORMER.CLASS_WEIGHT": [-1.0, nan],
            "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": [0],
            "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": [0.5],
            "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": [1.5],
            "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": ["res9", ""],
            "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": ["Decoder"],
            "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": [-0.1, 1.1],
            "MODEL.PANOPTIC_MERGING.STRATEGY": ["heuristic"],
            "MODEL.PANOPTIC_MERGING.MASK_THRESHOLD": [2.0],
            "MODEL.RESNETS.DEPTH": [19, 0],
            "MODEL.RESNETS.RES2_OUT_CHANNELS": [256],
            "MODEL.RESNETS.OUT_FEATURES": [[], ["res6"]],
            "MODEL.RESNETS.NORM": ["BatchNorm"],
            "DATALOADER.NUM_WORKERS": [-1, 10**6],
            "DATALOADER.SAMPLER_TRAIN": ["Sampler"],
            "DATASETS.TEST": [("",), (3,)],
            "TEST.EVAL_PERIOD": [-1],
            "TEST.IMS_PER_BATCH": [0],
            "TEST.DETECTIONS_PER_IMAGE": [0],
            "TEST.ALLOW_MISSING_WEIGHTS": [1],
            "TEST.AUG.MIN_SIZES": [(), (0,)],
            "TEST.EXPECTED_RESULTS": [[1], [["sem_seg", "mIoU", "40", 1.0]], [[1, 2, 3.0, -1.0]]],
        }.items()
        for value in values
    ],
    ("autofocusformer", "MODEL.AFF.DS_RATE", 0.0),
    ("autofocusformer", "MODEL.AFF.CLUSTER_SIZE", 0),
    ("autofocusformer", "MODEL.AFF.DEPTHS", [2, 2]),
    ("autofocusformer", "MODEL.AFF.NUM_HEADS", [3, 4, 8, 8]),
    ("autofocusformer", "MODEL.AFF.OUT_FEATURES", ["res2"]),
    ("autofocusformer", "MODEL.AFF.ATTN_DROP_RATE", 0.1),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.HIDDEN_DIM", 100),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.NHEADS", 7),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.NUM_THING_QUERIES", 0),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.LOCATION_LAYERS", 0),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.LOCATION_TARGET", "center"),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.IN_FEATURES", ["res2", "res3"]),
    ("panoptic_segformer", "MODEL.PANOPTIC_SEGFORMER.IN_FEATURES", ["res3", "res4", "res5"]),
    ("panoptic_segformer", "MODEL.RESNETS.NORM", "SyncBN"),
    ("panoptic_segformer", "MODEL.RESNETS.NORM", "naiveSyncBN"),
    ("classifier", "INPUT.FORMAT", "BGR"),
    ("classifier", "INPUT.DATASET_MAPPER_NAME", "coco_panoptic_lsj"),
    ("classifier", "INPUT.CLASSIFICATION.AUTO_AUGMENT", "rand-z9"),
    ("classifier", "INPUT.CLASSIFICATION.ERASING_PROB", 1.5),
    ("classifier", "SOLVER.IMS_PER_BATCH", 3),
    ("classifier", "SOLVER.BASE_LR_END", 1.0),
    ("classifier", "MODEL.CLASSIFIER.NUM_CLASSES", 0),
    ("classifier", "TEST.AUG.ENABLED", True),
    ("swin", "MODEL.SWIN.DEPTHS", [2, 2]),
    ("swin", "MODEL.SWIN.PATCH_SIZE", 1),
    ("swin", "MODEL.SWIN.NUM_HEADS", [5, 6, 12, 24]),
    ("swin", "MODEL.SWIN.WINDOW_SIZE", 0),
    ("pvt", "MODEL.PVT.DEPTHS", [2, 2]),
    ("pvt", "MODEL.PVT.NUM_HEADS", [3, 3, 3, 3]),
    ("crop", "INPUT.CROP.TYPE", "relative"),
    ("crop", "INPUT.CROP.TYPE", "random"),
    ("crop", "INPUT.CROP.SIZE", [0.5, 0.5]),
    ("crop", "INPUT.CROP.SIZE", [512]),
    ("crop", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
]


@pytest.fixture(scope="module")
def systems():
    return {name: load_config(str(CONFIGS / path)) for name, path in SYSTEMS.items()}


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_configuration_is_valid(path):
    load_config(str(path))


@pytest.mark.parametrize(("system", "key", "value"), WRONG)
def test_wrong_values(systems, system, key, value):
    cfg = systems[system].clone()
    node, *sections, name = cfg, *key.split(".")
    for section in sections:
        node = node[section]
    node[name] = value
    with pytest.raises(ConfigError) as error:
        validate_config(cfg)
    assert "expected" in str(error.value)
    assert str(error.value).replace("\n", "").isprintable()


def test_no_result_wanted(systems):
    cfg = systems["mask2former"].clone()
    for task in ("SEMANTIC", "INSTANCE", "PANOPTIC"):
        cfg.MODEL.MASK_FORMER.TEST[f"{task}_ON"] = False
    with pytest.raises(ConfigError, match="at least one of SEMANTIC_ON"):
        validate_config(cfg)


def test_synchronized_norm_with_official_padding(systems):
    cfg = systems["panoptic_segformer"].clone()
    cfg.merge_from_list(
        ["MODEL.RESNETS.NORM", "SyncBN", "MODEL.PANOPTIC_SEGFORMER.OFFICIAL_PADDING", True]
    )
    validate_config(cfg)


def test_all_faults_at_once(systems):
    cfg = systems["mask2former"].clone()
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", 0, "INPUT.MIN_SCALE", 9.0, "SEED", 2**40, "TEST.EVAL_PERIOD", -1]
    )
    with pytest.raises(ConfigError) as error:
        validate_config(cfg)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and lines[-1].endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("MODEL.META_ARCHITECTURE", "Maskformer", "MaskFormer"),
        ("MODEL.BACKBONE.NAME", "SwinTransformer", "D2SwinTransformer"),
        ("INPUT.DATASET_MAPPER_NAME", "coco_panoptic", "coco_panoptic_lsj"),
        ("SOLVER.OPTIMIZER", "AdamW", "ADAMW"),
    ],
)
def test_closest_name(systems, key, value, name):
    cfg = systems["mask2former"].clone()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"{key}: .*did you mean .*{name}"):
        validate_config(cfg)


def test_every_rule_has_its_key():
    keys = set(all_keys(get_cfg()))
    assert not set(RULES) - keys


def test_every_key_of_ours_has_a_rule():
    from detectron2.config import get_cfg as get_detectron2_cfg

    cfg = get_cfg()
    leaves = {
        key for key in all_keys(cfg) if not any(k.startswith(f"{key}.") for k in all_keys(cfg))
    }
    ours = leaves - set(all_keys(get_detectron2_cfg())) - set(RULES)
    # Of official files; nothing reads them.
    assert ours == {
        "MODEL.RESNETS.RES4_DILATION",
        "MODEL.RESNETS.RES5_MULTI_GRID",
        "MODEL.RESNETS.STEM_TYPE",
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
        "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
        "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS",
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES",
        "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
    }


def test_data_sets(systems):
    cfg = systems["mask2former"].clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    require_datasets(cfg, training=False)
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN: there is nothing to train on"):
        require_datasets(cfg, training=True)
    assert "coco_2017_train_panoptic" in DatasetCatalog
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train_panoptic",), ("coco_2017_val_pan",)
    with pytest.raises(ConfigError, match=r"'coco_2017_val_pan'; did you mean coco_2017_val_pan"):
        require_datasets(cfg, training=True)
