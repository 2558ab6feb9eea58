"""The published configurations, held against the published values, and an official file."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from segcore.config import get_cfg

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED = sorted(CONFIGS.glob("*/*-segmentation/aff_*.yaml"))

# folder -> (classes, mapper, batch, iterations, alpha, power on the distance, learnable)
TASKS = {
    "ade20k/semantic": (150, "mask_former_semantic", 32, 80_000, 4.0, 6.0, True),
    "cityscapes/instance": (8, "mask_former_instance", 32, 45_000, 8.0, 6.0, True),
    "cityscapes/panoptic": (19, "mask_former_panoptic", 32, 45_000, 8.0, 6.0, True),
    "coco/instance": (80, "coco_instance_lsj", 64, 92_188, 4.0, 4.0, False),
    "coco/panoptic": (133, "coco_panoptic_lsj", 64, 92_188, 4.0, 4.0, False),
}
# size -> (first width, blocks, cluster size, neighborhood, layer scale)
SIZES = {
    "mini": (32, 12, 8, 48, 0.0),
    "tiny": (64, 30, 8, 48, 0.0),
    "small": (96, 27, 8, 48, 1e-5),
    "base": (128, 27, 24, 144, 1e-5),
}

# As the official files are written: the names of the decoders on maps.
OFFICIAL = """
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  WEIGHTS: ""
  BACKBONE:
    FREEZE_AT: 0
    NAME: "AutoFocusFormer"
  AFF:
    EMBED_DIM: [32, 128, 256, 384]
    DEPTHS: [2, 2, 6, 2]
    NUM_HEADS: [2, 4, 8, 16]
    MLP_RATIO: 2.0
    CLUSTER_SIZE: 8
    NBHD_SIZE: [48, 48, 48, 48]
    LAYER_SCALE: 0.0
    ALPHA: 4.0
    DS_RATE: 0.25
    RESERVE: True
    DROP_RATE: 0.0
    ATTN_DROP_RATE: 0.0
    DROP_PATH_RATE: 0.0
    PATCH_NORM: True
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    SHEPARD_POWER: 4.0
    SHEPARD_POWER_LEARNABLE: False
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    NUM_CLASSES: 80
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    COMMON_STRIDE: 4
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DROPOUT: 0.0
    DEC_LAYERS: 10
VERSION: 2
"""


def load(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path), allow_unsafe=False)
    return cfg


def test_every_published_configuration_exists():
    assert len(PUBLISHED) == 20 + 1  # and one of ours


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_published_values(path):
    cfg = load(path)
    dataset, task = path.relative_to(CONFIGS).parts[:2]
    task = f"{dataset}/{task.removesuffix('-segmentation')}"
    classes, mapper, batch, iterations, alpha, power, learnable = TASKS[task]
    size = path.name.split("_")[1]
    base = size == "base"
    aff, mask_former = cfg.MODEL.AFF, cfg.MODEL.MASK_FORMER
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert mapper == cfg.INPUT.DATASET_MAPPER_NAME
    assert (16 if base else batch) == cfg.SOLVER.IMS_PER_BATCH
    assert (90_000 if base else iterations) == cfg.SOLVER.MAX_ITER
    assert (1e-4 if base else 2e-4) == cfg.SOLVER.BASE_LR
    assert (250 if base else 100) == mask_former.NUM_OBJECT_QUERIES
    assert (250 if base else 100) == cfg.TEST.DETECTIONS_PER_IMAGE
    assert (alpha, power, learnable) == (
        aff.ALPHA,
        aff.SHEPARD_POWER,
        aff.SHEPARD_POWER_LEARNABLE,
    )
    assert SIZES[size] == (
        aff.EMBED_DIM[0],
        sum(aff.DEPTHS),
        aff.CLUSTER_SIZE,
        aff.NBHD_SIZE[0],
        aff.LAYER_SCALE,
    )
    assert (0.2 if "1_5th" in path.name else 0.25) == aff.DS_RATE
    assert (0.0 if size == "mini" else 0.3) == aff.DROP_PATH_RATE
    assert not cfg.SOLVER.AMP.ENABLED and not aff.PER_IMAGE and cfg.SEED == 0
    assert (2500 if dataset == "coco" else 5000) == cfg.TEST.EVAL_PERIOD
    if dataset == "coco":
        assert cfg.SOLVER.STEPS == (81_945, 88_773) and cfg.SOLVER.WARMUP_ITERS == 3
    else:
        assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR"


def test_official_file_runs_unchanged(tmp_path):
    path = tmp_path / "official.yaml"
    path.write_text(OFFICIAL)
    cfg = load(path)
    cfg.MODEL.DEVICE = "cpu"
    ours = load(CONFIGS / "coco/instance-segmentation/aff_mini_bs64_50ep.yaml")
    ours.MODEL.DEVICE = "meta"
    model = build_model(cfg).eval()
    with torch.device("meta"):
        expected = build_model(ours)
    assert str(model) == str(expected)
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 30, 40)}])
    assert result["sem_seg"].shape == (80, 30, 40)


def test_quickstart_differs_from_mask2former_in_the_network_only():
    ours = load(CONFIGS / "quickstart/autofocusformer_demo.yaml")
    theirs = load(CONFIGS / "quickstart/mask2former_R18.yaml")
    for section in ("DATASETS", "INPUT", "SOLVER", "TEST"):
        assert ours[section] == theirs[section]
    assert ours.MODEL.SEM_SEG_HEAD.CONVS_DIM == theirs.MODEL.SEM_SEG_HEAD.CONVS_DIM
    assert ours.OUTPUT_DIR != theirs.OUTPUT_DIR
    ours.MODEL.DEVICE = "cpu"
    model = build_model(ours).eval()
    assert type(model.sem_seg_head.predictor).__name__ == "PointMaskedTransformerDecoder"
    assert sum(parameter.numel() for parameter in model.parameters()) < 3.5e6
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 40, 72)}])
    assert result["sem_seg"].shape == (ours.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 40, 72)
    assert result["panoptic_seg"][0].shape == (40, 72)
