"""The published recipes, held against the published values."""

from pathlib import Path

import pytest

from segcore.config import get_cfg

RECIPES = Path(__file__).resolve().parents[3] / "configs" / "imagenet" / "classification"

# Published for a batch of 512; lr: at its start, at its end, at the start of the warm-up.
FROM_SCRATCH = {"epochs": 300, "warmup": 20, "lr": (5e-4, 5e-6, 5e-7), "decay": 0.05}
LARGE_DATA = {"epochs": 90, "warmup": 5, "lr": (5e-4, 1.25e-6, 1.25e-7), "decay": 0.05}
FINE_TUNING = {"epochs": 30, "warmup": 5, "lr": (2e-5, 2e-7, 2e-8), "decay": 1e-8}
# name -> (schedule, images an epoch, total batch, drop path, mixup and CutMix, rate)
PUBLISHED = {
    "aff_mini": (FROM_SCRATCH, 1_281_167, 4096, 0.0, (0.0, 0.0), 0.25),
    "aff_mini_1_5th": (FROM_SCRATCH, 1_281_167, 4096, 0.0, (0.0, 0.0), 0.2),
    "aff_tiny": (FROM_SCRATCH, 1_281_167, 4096, 0.2, (0.8, 1.0), 0.25),
    "aff_tiny_1_5th": (FROM_SCRATCH, 1_281_167, 4096, 0.2, (0.8, 1.0), 0.2),
    "aff_small": (FROM_SCRATCH, 1_281_167, 4096, 0.3, (0.8, 1.0), 0.25),
    "aff_small_1_5th": (FROM_SCRATCH, 1_281_167, 4096, 0.3, (0.8, 1.0), 0.2),
    "aff_base_22k": (LARGE_DATA, 14_197_122, 4096, 0.2, (0.8, 1.0), 0.25),
    "aff_base_22kto1k": (FINE_TUNING, 1_281_167, 1024, 0.2, (0.8, 1.0), 0.25),
    "aff_base_22kto1k_384": (FINE_TUNING, 1_281_167, 1024, 0.2, (0.8, 1.0), 0.25),
}
# size -> (widths, blocks, cluster size, neighborhoods, layer scale)
SIZES = {
    "mini": ([32, 128, 256, 384], [2, 2, 6, 2], 8, [48, 48, 48, 49], 0.0),
    "tiny": ([64, 128, 256, 512], [3, 4, 18, 5], 8, [48, 48, 48, 49], 0.0),
    "small": ([96, 192, 384, 768], [3, 4, 18, 2], 8, [48, 48, 48, 49], 1e-5),
    "base": ([128, 256, 512, 1024], [3, 4, 18, 2], 8, [48, 48, 48, 49], 1e-5),
    "base_384": ([128, 256, 512, 1024], [3, 4, 18, 2], 24, [144] * 4, 1e-5),
}


def load(name: str):
    cfg = get_cfg()
    cfg.merge_from_file(str(RECIPES / f"{name}.yaml"), allow_unsafe=False)
    return cfg


def test_every_recipe_exists():
    assert {path.stem for path in RECIPES.iterdir()} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule(name):
    cfg = load(name)
    schedule, images, batch, *_ = PUBLISHED[name]
    solver, scale = cfg.SOLVER, batch / 512
    steps = images // batch  # an epoch drops what does not fill a batch
    assert batch == solver.IMS_PER_BATCH
    assert solver.MAX_ITER == schedule["epochs"] * steps
    assert solver.WARMUP_ITERS == schedule["warmup"] * steps
    start, end, warmup = (rate * scale for rate in schedule["lr"])
    assert pytest.approx(start) == solver.BASE_LR
    assert pytest.approx(end) == solver.BASE_LR_END
    assert pytest.approx(warmup) == solver.BASE_LR * solver.WARMUP_FACTOR
    assert (solver.LR_SCHEDULER_NAME, solver.WARMUP_METHOD) == ("WarmupCosineLR", "linear")
    assert schedule["decay"] == solver.WEIGHT_DECAY
    assert solver.WEIGHT_DECAY_1D == 0
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 5.0)
    assert (solver.OPTIMIZER, solver.AMP.ENABLED, cfg.SEED) == ("ADAMW", False, 0)
    assert solver.ACCUMULATE == (4 if name.endswith("384") else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_model_and_augmentation(name):
    cfg = load(name)
    *_, drop_path, mixing, rate = PUBLISHED[name]
    size = name.split("_")[1] + ("_384" if name.endswith("384") else "")
    aff, options = cfg.MODEL.AFF, cfg.INPUT.CLASSIFICATION
    values = aff.EMBED_DIM, aff.DEPTHS, aff.CLUSTER_SIZE, aff.NBHD_SIZE, aff.LAYER_SCALE
    assert values == SIZES[size]
    assert (aff.DROP_PATH_RATE, aff.DS_RATE, aff.ALPHA) == (drop_path, rate, 4.0)
    assert (options.MIXUP_ALPHA, options.CUTMIX_ALPHA) == mixing
    assert (options.MIX_PROB, options.CUTMIX_PROB, options.ERASING_PROB) == (1.0, 0.5, 0.25)
    assert (options.AUTO_AUGMENT, options.COLOR_JITTER) == ("rand-m9-mstd0.5-inc1", 0.4)
    assert cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING == 0.1
    assert cfg.INPUT.IMAGE_SIZE == (384 if size == "base_384" else 224)
    assert options.CENTER_CROP_TEST == (size != "base_384")
    assert cfg.MODEL.META_ARCHITECTURE == "AutoFocusFormerClassifier"
    assert cfg.INPUT.DATASET_MAPPER_NAME == "image_classification"
    assert cfg.INPUT.FORMAT == "RGB"
    assert bool(cfg.MODEL.WEIGHTS) == ("22kto1k" in name)
