"""The configurations, held against the published values."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from segcore.config import get_cfg
from segcore.solver import parameter_groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*/*-segmentation/panoptic_segformer_*.yaml"))
EPOCH = 14_786

# folder -> (data sets, classes, shortest and longest edge in tests)
DATA = {
    "coco": ("coco_2017_train_panoptic", "coco_2017_val_panoptic_with_sem_seg", 133, 800, 1333),
    "ade20k": ("ade20k_panoptic_train", "ade20k_panoptic_val", 150, 640, 2560),
    "cityscapes": (
        "cityscapes_fine_panoptic_train",
        "cityscapes_fine_panoptic_val",
        19,
        1024,
        2048,
    ),
}
# length -> (iterations, where the learning rate is divided)
SCHEDULES = {
    "12e": (12 * EPOCH, 8 * EPOCH),
    "24e": (24 * EPOCH, 18 * EPOCH),
    "320k": (320_000, 240_000),
    "180k": (180_000, 135_000),
}


def load(path: Path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path), allow_unsafe=False)
    return cfg


def words_of(path: Path) -> tuple[str, str]:
    """Backbone and schedule of a file's name."""
    backbone, schedule = path.stem.removeprefix("panoptic_segformer_").rsplit("_", 1)
    return backbone, schedule


def test_every_configuration_exists():
    coco = {"r50_12e", "r50_24e", "r101_24e", "pvtv2_b0_24e", "pvtv2_b2_24e", "pvtv2_b5_24e"}
    coco |= {"swin_l_24e"}
    names = {(path.parts[-3], "_".join(words_of(path))) for path in FILES}
    ours = {("ade20k", "r50_320k"), ("cityscapes", "r50_180k")}
    assert names == {("coco", name) for name in coco} | ours


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_published_values(path):
    cfg = load(path)
    backbone, schedule = words_of(path)
    train, test, classes, shortest, longest = DATA[path.parts[-3]]
    assert (train,) == cfg.DATASETS.TRAIN and (test,) == cfg.DATASETS.TEST
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert (shortest, longest) == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    assert cfg.INPUT.DATASET_MAPPER_NAME == "panoptic_segformer"
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticSegFormer"

    iterations, step = SCHEDULES[schedule]
    assert iterations == cfg.SOLVER.MAX_ITER and (step,) == cfg.SOLVER.STEPS
    assert cfg.SOLVER.IMS_PER_BATCH == 8 and cfg.SOLVER.BASE_LR == 1.4e-4
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and cfg.SOLVER.WARMUP_ITERS == 0
    assert not cfg.SOLVER.AMP.ENABLED
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert clip.ENABLED and (clip.CLIP_TYPE, clip.CLIP_VALUE) == ("full_model", 0.1)
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and cfg.DATALOADER.ASPECT_RATIO_GROUPING

    merging = cfg.MODEL.PANOPTIC_MERGING
    quality = 0.25 if backbone in ("r50", "r101") else 0.3
    assert (quality, quality) == (
        merging.QUALITY_THRESHOLD_THINGS,
        merging.QUALITY_THRESHOLD_STUFF,
    )
    assert (merging.STRATEGY, merging.MASK_THRESHOLD) == ("", 0.5)
    assert (merging.OVERLAP_THRESHOLD_THINGS, merging.OVERLAP_THRESHOLD_STUFF) == (0.4, 0.2)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100


def test_sizes_of_the_official_pipeline():
    cfg = load(CONFIGS / "coco/panoptic-segmentation/panoptic_segformer_r50_24e.yaml")
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(range(480, 801, 32))
    assert cfg.INPUT.MAX_SIZE_TRAIN == 1333
    crop = cfg.INPUT.CROP
    assert crop.ENABLED and (crop.TYPE, crop.SIZE) == ("absolute_range", [384, 600])
    assert (crop.RESIZE_MIN_SIZES, crop.RESIZE_MAX_SIZE) == ([400, 500, 600], 4200)


def test_backbones():
    def model(name):
        return load(
            CONFIGS / f"coco/panoptic-segmentation/panoptic_segformer_{name}_24e.yaml"
        ).MODEL

    resnet, swin, pvt = model("r101"), model("swin_l").SWIN, model("pvtv2_b5")
    assert (resnet.BACKBONE.FREEZE_AT, resnet.RESNETS.NORM) == (2, "FrozenBN")
    assert (resnet.RESNETS.DEPTH, resnet.RESNETS.STRIDE_IN_1X1) == (101, False)
    assert (swin.WINDOW_SIZE, swin.PRETRAIN_IMG_SIZE, swin.DROP_PATH_RATE) == (7, 224, 0.3)
    assert (swin.EMBED_DIM, swin.DEPTHS) == (192, [2, 2, 18, 2])
    assert (pvt.PVT.MLP_RATIOS, pvt.PVT.DROP_PATH_RATE) == ([4, 4, 4, 4], 0.1)
    assert pvt.WEIGHTS == "pvt_v2_b5_22k.pkl"
    for features in (resnet.RESNETS.OUT_FEATURES, swin.OUT_FEATURES, pvt.PVT.OUT_FEATURES):
        assert features == ["res3", "res4", "res5"]


@pytest.mark.parametrize("backbone", ["r50", "pvtv2_b0", "swin_l"])
def test_learning_rate_and_decay_of_every_parameter(backbone):
    cfg = load(CONFIGS / f"coco/panoptic-segmentation/panoptic_segformer_{backbone}_24e.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    options = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(cfg, model)
        for parameter in group["params"]
    }
    slow = ("backbone", "sampling_offsets", "reference_points")
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("backbone.stem", "backbone.res2"))
        assert parameter.requires_grad != frozen, name
        if not frozen:
            lr = 1.4e-5 if any(part in name for part in slow) else 1.4e-4
            assert options[parameter] == pytest.approx((lr, 1e-4)), name
