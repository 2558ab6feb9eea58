"""Frames, models and modules of the golden cases of videos."""

import math
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from parity.golden import Case, z
from parity.mask2former.model import CONFIGS, case_cfg
from segcore.matching import HungarianMatcher


def picture(name: str, size: tuple[int, int]) -> Tensor:
    """The frame (3, H, W) uint8 of a name: blocks of 8 pixels with noise."""
    height, width = size
    blocks = 128 + 60 * z(f"{name}.blocks", (3, math.ceil(height / 8), math.ceil(width / 8)))
    image = np.kron(blocks, np.ones((1, 8, 8)))[:, :height, :width]
    image = np.floor(image + 20 * z(f"{name}.noise", (3, height, width)))
    return torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8))


def video_cfg(case: Case) -> CfgNode:
    """The config of a case with a whole model."""
    cfg = case_cfg(case.config)
    cfg.merge_from_file(str(CONFIGS / "_base_/mask2former_video/video.yaml"))
    cfg.INPUT.SAMPLING_FRAME_NUM = case.config["frames"]
    return cfg


class OfficialMatcher(HungarianMatcher):
    """Takes the official labels, of which K means "no object"."""

    def __call__(self, predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]):
        return super().__call__(with_one_class_more(predictions), targets)


def with_one_class_more(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predictions with a class after "no object" that has no probability."""
    return [
        {**prediction, "pred_logits": F.pad(prediction["pred_logits"], (0, 1), value=-math.inf)}
        for prediction in predictions
    ]
