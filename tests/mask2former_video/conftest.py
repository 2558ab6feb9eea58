"""A video model small enough to run in milliseconds, and drawn videos."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mask2former_video.drawn_videos import generate
from segcore.config import load_config
from small_models import SMALL_MODELS

CONFIG = Path(__file__).resolve().parents[2] / "configs/quickstart/mask2former_video_R18.yaml"
SIZE = (40, 56)


def small_cfg(**options):
    """The quickstart's config with a tiny model; options are keys with "__" for dots."""
    settings = {
        **{k: v for k, v in SMALL_MODELS.items() if k.startswith(("MODEL.SEM", "MODEL.MASK"))},
        "MODEL.DEVICE": "cpu",
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    return load_config(str(CONFIG), [str(part) for pair in settings.items() for part in pair])


@pytest.fixture(scope="session")
def video_model():
    torch.manual_seed(0)
    return build_model(small_cfg()).eval()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos") / "drawn"
    return generate(root, num_train=3, num_val=2, num_frames=5, size=SIZE)


@pytest.fixture(scope="session")
def build_cfg():
    return small_cfg
