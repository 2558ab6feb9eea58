"""A model and data as small as can be, which draw random numbers wherever real ones do."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from segcore.config import get_cfg
from segcore.engine import Trainer
from segcore.engine.train_loader import build_train_loader

DATASET = "engine_test_data"
SIZES = [(8, 12), (12, 8), (8, 8), (8, 16), (6, 9)]  # height, width


@META_ARCH_REGISTRY.register()
class EngineTestNet(nn.Module):
    """A convolution with random points in its loss, as matching and criterion have them."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.autocast_dtype = None
        self.to(cfg.MODEL.DEVICE)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        device = self.conv.weight.device
        if torch.is_autocast_enabled(device.type):
            self.autocast_dtype = torch.get_autocast_dtype(device.type)
        losses = []
        for record in batch:
            features = self.norm(self.conv(record["image"].to(device)[None]))
            points = torch.rand_like(features) + np.random.rand() + random.random()  # noqa: NPY002
            losses.append((features.float() * points).square().mean())
        loss = torch.stack(losses).mean()
        return {"loss_points": loss, "loss_size": 0.1 * self.conv.weight.float().square().sum()}


def augment(record: dict) -> dict:
    """An image from the record's content, and from the global generators."""
    content = torch.full((3, record["height"], record["width"]), float(record["image_id"]))
    noise = np.random.rand() + random.random() + torch.rand(()).item()  # noqa: NPY002
    return {**record, "image": content + noise}


class TinyTrainer(Trainer):
    """The trainer on ``augment``; keeps the total loss of each iteration in ``losses``."""

    stop_at: int | None = None
    mapper = staticmethod(augment)

    @classmethod
    def build_train_loader(cls, cfg, start_iter=0):
        return build_train_loader(cfg, cls.mapper, start_iter)

    def before_step(self):
        super().before_step()
        if self.iter == self.stop_at:
            raise InterruptedError("stopped on purpose")

    def after_step(self):
        self.losses = [*getattr(self, "losses", []), self.storage.latest()["total_loss"][0]]
        super().after_step()


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of curves take longer to draw than the trainings take that they are of."""
    monkeypatch.setattr("segcore.engine.curves.draw_curves", lambda lines: b"")


@pytest.fixture
def dataset() -> Iterator[str]:
    records = [
        {"file_name": f"photo_{number}.jpg", "image_id": number, "height": height, "width": width}
        for number, (height, width) in enumerate(SIZES)
    ]
    DatasetCatalog.register(DATASET, lambda: records)
    MetadataCatalog.get(DATASET).set(thing_classes=["thing"])
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def cfg(dataset: str, tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "EngineTestNet"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_ITER = 7
    cfg.SOLVER.STEPS = (5,)
    cfg.SOLVER.WARMUP_ITERS = 3
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SEED = 5
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg
