"""The moving average of the weights: its values, what is evaluated and saved, exact resuming."""

from pathlib import Path

import pytest
import torch
from torch import nn

from segcore.checkpoint import read_checkpoint
from segcore.engine.ema import WeightAverage
from segcore.errors import CheckpointError

from .conftest import TinyTrainer


@pytest.fixture
def ema_cfg(cfg):
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.EMA.DECAY = 0.9
    cfg.SOLVER.EMA.WARMUP = 3
    cfg.SOLVER.WARMUP_ITERS = 0
    return cfg


def test_average_follows_its_definition():
    model = nn.BatchNorm1d(2)
    ema = WeightAverage(model, decay=0.7, warmup=4)
    expected, generator = None, torch.Generator().manual_seed(0)
    for updates in range(6):
        for tensor in (model.weight.data, model.running_var):
            tensor.copy_(torch.rand(2, generator=generator))
        model.num_batches_tracked += 3
        ema.update()
        values = torch.stack([model.weight.data, model.running_var])
        decay = min(0.7, (1 + updates) / (4 + updates))
        expected = values if updates == 0 else decay * expected + (1 - decay) * values
    average = ema.averaged
    torch.testing.assert_close(torch.stack([average.weight, average.running_var]), expected)
    assert average.num_batches_tracked == 18
    assert not average.training and not average.weight.requires_grad


def run(cfg, folder: str, *, resume: bool = False, stop_at=None):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / folder)
    torch.manual_seed(0 if not resume else 99)
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.stop_at = stop_at
    try:
        trainer.train()
    except InterruptedError:
        assert stop_at is not None
    return trainer


def test_resumed_run_equals_unbroken_run(ema_cfg):
    unbroken = run(ema_cfg, "unbroken")
    run(ema_cfg, "broken", stop_at=4)
    resumed = run(ema_cfg, "broken", resume=True)
    assert resumed.losses == unbroken.losses[3:]
    for name, value in unbroken.evaluated_model.state_dict().items():
        assert torch.equal(value, resumed.evaluated_model.state_dict()[name])
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_average_is_evaluated_and_saved(ema_cfg):
    ema_cfg.DATASETS.TEST = ema_cfg.DATASETS.TRAIN
    tested = []

    class Evaluated(TinyTrainer):
        def test(self, cfg, model):
            tested.append(model)
            return {}

    trainer = Evaluated(ema_cfg)
    trainer.train()
    assert tested == [trainer.evaluated_model] != [trainer.model]
    checkpoint = read_checkpoint(Path(ema_cfg.OUTPUT_DIR, "model_final.pth"))
    for model, state in (
        (trainer.evaluated_model, checkpoint["model"]),
        (trainer.model, checkpoint["ema"]["weights"]),
    ):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not torch.equal(trainer.model.conv.weight, trainer.evaluated_model.conv.weight)


def test_resuming_a_run_without_average(ema_cfg):
    plain = ema_cfg.clone()
    plain.SOLVER.EMA.ENABLED = False
    run(plain, "plain", stop_at=4)
    with pytest.raises(CheckpointError, match=r"no state of the training \(ema\)"):
        run(ema_cfg, "plain", resume=True)
