"""The configurations, held against the published values."""

from pathlib import Path

import pytest

from eomt.annealing import build_annealing
from segcore.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EPOCH = 7391  # steps of COCO

ADE20K = ((6520, 13040, 19560, 26080), (13040, 19560, 26080, 32600))
ADE20K_GIANT = ((6520, 11410, 16300, 21190, 26080), (13040, 17930, 22820, 27710, 32600))
CITYSCAPES = ((3317, 6634, 9951, 13268), (6634, 9951, 13268, 16585))
SMALL = ((14782, 36955, 59128), (29564, 51737, 73910))
SMALL_2X = ((29564, 73910, 118256), (59128, 103474, 147820))
LARGE = ((14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910))
GIANT = ((14782, 25869, 36955, 48042, 59128), (29564, 40651, 51737, 62824, 73910))
DINOV3_2X = ((0, 73910, 118256), (3000, 103474, 147820))
DINOV3 = ((0, 29564, 44346, 59128), (3000, 44346, 59128, 73910))
DINOV3_ADE20K = ((0, 6520, 9780, 13040), (3000, 9780, 13040, 16300))

# File -> classes, queries, iterations, crop, annealing.
PUBLISHED = {
    **{
        f"coco/panoptic-segmentation/eomt_dinov2_{size}_640{suffix}": (
            133,
            200,
            steps,
            640,
            annealing,
        )
        for size in ("small", "base")
        for suffix, steps, annealing in (("", 12 * EPOCH, SMALL), ("_2x", 24 * EPOCH, SMALL_2X))
    },
    **{
        f"coco/panoptic-segmentation/eomt_dinov3_{size}_640_2x": (
            133,
            200,
            24 * EPOCH,
            640,
            DINOV3_2X,
        )
        for size in ("small", "base")
    },
    **{
        f"{folder}-segmentation/eomt_{vit}_{crop}": (*values[:3], crop, values[3])
        for crop in (640, 1280)
        for folder, vit, values in (
            ("coco/panoptic", "dinov2_large", (133, 200, 12 * EPOCH, LARGE)),
            ("coco/panoptic", "dinov2_giant", (133, 200, 12 * EPOCH, GIANT)),
            ("coco/panoptic", "dinov3_large", (133, 200, 12 * EPOCH, DINOV3)),
            ("coco/instance", "dinov2_large", (80, 200, 12 * EPOCH, LARGE)),
            ("coco/instance", "dinov3_large", (80, 200, 12 * EPOCH, LARGE)),
            ("ade20k/panoptic", "dinov2_large", (150, 200, 31 * 1262, ADE20K)),
            ("ade20k/panoptic", "dinov2_giant", (150, 200, 31 * 1262, ADE20K_GIANT)),
        )
    },
    "ade20k/semantic-segmentation/eomt_dinov2_large_512": (150, 100, 31 * 1262, 512, ADE20K),
    "ade20k/semantic-segmentation/eomt_dinov3_large_512": (150, 100, 16 * 1262, 512, DINOV3_ADE20K),
    "cityscapes/semantic-segmentation/eomt_dinov2_large_1024": (
        19,
        100,
        107 * 185,
        1024,
        CITYSCAPES,
    ),
}


def test_every_published_configuration_exists():
    files = CONFIGS.glob("*/*-segmentation/eomt_*.yaml")
    assert {str(file.relative_to(CONFIGS).with_suffix("")) for file in files} == set(PUBLISHED)
    assert len(PUBLISHED) == 23


@pytest.mark.parametrize("name", PUBLISHED)
def test_values(name):
    classes, queries, iterations, crop, annealing = PUBLISHED[name]
    dataset, task = name.removesuffix("-segmentation").split("/")[:2]
    task, dinov3 = task.removesuffix("-segmentation"), "dinov3" in name
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    eomt, solver, inputs = cfg.MODEL.EOMT, cfg.SOLVER, cfg.INPUT

    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert (eomt.NUM_OBJECT_QUERIES, solver.MAX_ITER) == (queries, iterations)
    assert build_annealing(cfg)[:2] == annealing
    assert eomt.NUM_BLOCKS == len(annealing[0]) and eomt.VIT.PATCH_SIZE == 16
    assert ("dinov3_qkvb" if dinov3 else "reg4_dinov2") in eomt.VIT.NAME
    assert name.split("_")[2] in eomt.VIT.NAME
    assert (eomt.CLASS_WEIGHT, eomt.MASK_WEIGHT, eomt.DICE_WEIGHT) == (2, 5, 5)

    semantic = task == "semantic"
    assert inputs.DATASET_MAPPER_NAME == f"eomt_{task}"
    assert (inputs.IMAGE_SIZE, inputs.MIN_SIZE_TEST) == (crop, crop)
    assert inputs.MAX_SIZE_TEST == (65_536 if semantic else crop)
    assert (inputs.MIN_SCALE, inputs.MAX_SCALE) == (0.5 if semantic else 0.1, 2.0)
    assert inputs.COLOR_AUG_SSD == (dataset != "coco")
    switches = (eomt.TEST.SEMANTIC_ON, eomt.TEST.INSTANCE_ON, eomt.TEST.PANOPTIC_ON)
    assert switches == (semantic, task == "instance", task == "panoptic")
    assert eomt.TEST.WINDOWS == semantic

    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 2e-4 if dinov3 else 1e-4)
    assert list(solver.WARMUP_STAGES) == ([2000, 3000] if dinov3 else [500, 1000])
    assert solver.LAYER_DECAY == (1.0 if dinov3 and dataset == "ade20k" else 0.8)
    assert solver.LAYER_DECAY_LAST_BLOCKS != dinov3
