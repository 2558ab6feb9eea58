"""The configurations of YouTubeVIS, held against the published values, and what is refused."""

from pathlib import Path

import pytest

from mask2former_video.mapper import COCOClipMapper, YTVISClipMapper
from segcore.config import load_config
from segcore.data.mappers import build_train_mapper
from segcore.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
R50 = "youtubevis_2019/video_maskformer2_R50_bs16_8ep.yaml"
# Backbone -> initial weights, smallest test edge in 2019 and in 2021, queries.
BACKBONES = {
    "R50": ("3c8ec9", 360, 360, 100),
    "R101": ("eba159", 360, 360, 100),
    "swin_tiny": ("86143f", 480, 480, 100),
    "swin_small": ("1e7f22", 480, 480, 100),
    "swin_base_IN21k_384": ("83d103", 480, 480, 100),
    "swin_large_IN21k_384": ("e5f453", 480, 360, 200),
}
PUBLISHED = [(year, backbone) for year in (2019, 2021) for backbone in BACKBONES]
# As the official files that name neither the mapper nor what only ours name.
OFFICIAL = """
_BASE_: ["{parts}/backbones/resnet50.yaml", "{parts}/mask2former.yaml"]
MODEL:
  META_ARCHITECTURE: "VideoMaskFormer"
  MASK_ON: True
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "VideoMultiScaleMaskedTransformerDecoder"
DATASETS:
  TRAIN: ("ytvis_2019_train",)
  TEST: ("ytvis_2019_val",)
DATALOADER:
  FILTER_EMPTY_ANNOTATIONS: False
INPUT:
  MIN_SIZE_TRAIN_SAMPLING: "choice_by_clip"
  RANDOM_FLIP: "flip_by_clip"
  MIN_SIZE_TRAIN: (360, 480)
  SAMPLING_FRAME_NUM: 2
  SAMPLING_FRAME_RANGE: 20
  SAMPLING_FRAME_SHUFFLE: False
  AUGMENTATIONS: []
"""


def path_of(year: int, backbone: str) -> Path:
    name = f"video_maskformer2_{backbone}_bs16_8ep.yaml"
    folder = "swin" if backbone.startswith("swin") else ""
    return CONFIGS / f"youtubevis_{year}" / folder / name


def test_every_published_configuration_exists():
    files = {path for year in (2019, 2021) for path in CONFIGS.glob(f"youtubevis_{year}/**/*.yaml")}
    assert files == {path_of(*published) for published in PUBLISHED}


@pytest.mark.parametrize(("year", "backbone"), PUBLISHED)
def test_values(year, backbone):
    cfg = load_config(str(path_of(year, backbone)))
    weights, size_2019, size_2021, queries = BACKBONES[backbone]
    inputs, solver, model = cfg.INPUT, cfg.SOLVER, cfg.MODEL
    assert model.WEIGHTS == f"model_final_{weights}.pkl"
    assert model.MASK_FORMER.NUM_OBJECT_QUERIES == queries
    assert inputs.MIN_SIZE_TEST == (size_2019 if year == 2019 else size_2021)
    schedule = (6000, (4000,)) if year == 2019 else (8000, (5500,))
    assert (solver.MAX_ITER, solver.STEPS) == schedule
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WARMUP_FACTOR) == (16, 1e-4, 1.0)
    assert (tuple(inputs.MIN_SIZE_TRAIN), inputs.MAX_SIZE_TRAIN) == ((360, 480), 1333)
    assert (inputs.MIN_SIZE_TRAIN_SAMPLING, inputs.RANDOM_FLIP) == (
        "choice_by_clip",
        "flip_by_clip",
    )
    assert (inputs.SAMPLING_FRAME_NUM, inputs.SAMPLING_FRAME_RANGE) == (2, 20)
    assert cfg.DATASETS.TRAIN == (f"ytvis_{year}_train",)
    assert cfg.DATASETS.TEST == (f"ytvis_{year}_val",)
    assert model.SEM_SEG_HEAD.NUM_CLASSES == 40 and model.MASK_FORMER.DEC_LAYERS == 10
    assert cfg.TEST.EVAL_PERIOD == 0 and not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS


def test_official_file_without_mapper(tmp_path):
    file = tmp_path / "official.yaml"
    file.write_text(OFFICIAL.format(parts=CONFIGS / "_base_"))
    cfg = load_config(str(file))
    assert isinstance(build_train_mapper(cfg), YTVISClipMapper)
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_clip"
    assert isinstance(build_train_mapper(cfg), COCOClipMapper)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (R50, ["MODEL.MASK_FORMER.TEST.VIDEO.CLIP_LENGTH", "1"],
            "CLIP_OVERLAP: expected at most half of CLIP_LENGTH, 1, got 1"),
        (R50, ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range_by_clip", "INPUT.MIN_SIZE_TRAIN", "(4,)"],
            r"MIN_SIZE_TRAIN: expected \(smallest, largest\)"),
        (R50, ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True"], "expected False"),
        (R50, ["INPUT.AUGMENTATIONS", "['blur']"], "AUGMENTATIONS: .*each one of"),
        (R50, ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "100"], "CONVS_DIM: expected a multiple of 32"),
        (R50, ["MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"],
            "TRANSFORMER_DECODER_NAME: expected 'VideoMultiScale"),
        ("coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
            ["INPUT.RANDOM_FLIP", "flip_by_clip"], "'flip_by_clip' is for clips"),
        ("coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
            ["INPUT.DATASET_MAPPER_NAME", "ytvis_clip"], "'ytvis_clip' is for"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(config, options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(str(CONFIGS / config), options)
