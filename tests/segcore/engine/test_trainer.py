"""Training steps: exact resume, precision, and the stop at a number that is not finite."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from segcore.engine.train_loop import TrainLoop, autocast_dtype

from .conftest import TinyTrainer, augment


def train(cfg, *, resume=False, stop_at=None, init_seed=0):
    torch.manual_seed(init_seed)  # default_setup's part
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.stop_at = stop_at
    if stop_at is None:
        trainer.train()
    else:
        with pytest.raises(InterruptedError):
            trainer.train()
    return trainer


def in_folder(cfg, name):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / name)
    return cfg


def assert_same_weights(first, second):
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("workers", "bfloat16"), [(0, False), (2, True)])
def test_resumed_run_equals_unbroken_run(cfg, workers, bfloat16):
    cfg.SOLVER.AMP.CPU_BFLOAT16 = bfloat16
    unbroken = train(in_folder(cfg, "unbroken"))

    cfg.DATALOADER.NUM_WORKERS = workers
    broken = in_folder(cfg, "broken")
    stopped = train(broken, stop_at=4)
    assert stopped.losses == unbroken.losses[:4]
    # The checkpoint is that of iteration 2; nothing else of the first process is left.
    resumed = train(broken, resume=True, init_seed=99)
    assert resumed.start_iter == 3
    assert resumed.losses == unbroken.losses[3:]
    assert len(set(unbroken.losses)) == 7
    assert_same_weights(resumed.model, unbroken.model)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_algorithms(cfg, deterministic, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own stays
    cfg.DETERMINISTIC = deterministic
    try:
        TinyTrainer(cfg)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.use_deterministic_algorithms(False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_drawn_seed_is_kept(cfg):
    cfg.SEED = -1
    broken = in_folder(cfg, "broken")
    seed = train(broken, stop_at=4).cfg.SEED
    resumed = train(broken, resume=True)
    assert resumed.cfg.SEED == seed >= 0

    cfg.SEED = seed
    unbroken = train(in_folder(cfg, "unbroken"))
    assert resumed.losses == unbroken.losses[3:]


def test_seed_of_the_config_wins_over_the_checkpoint(cfg):
    train(cfg, stop_at=4)
    cfg.SEED = 6
    assert train(cfg, resume=True).cfg.SEED == 6


def test_resume_without_checkpoint_starts_at_the_beginning(cfg):
    assert train(cfg, resume=True).start_iter == 0


def test_resume_of_a_finished_run_does_nothing(cfg):
    finished = train(cfg)
    again = train(cfg, resume=True)
    assert again.start_iter == cfg.SOLVER.MAX_ITER
    assert_same_weights(again.model, finished.model)


def test_checkpoint_loads_without_executing_code(cfg):
    trainer = train(cfg)
    path = trainer.checkpointer.get_checkpoint_file()
    state = torch.load(path, weights_only=True)
    assert state["iteration"] == 6
    assert state["trainer"]["_trainer"]["seed"] == 5
    assert len(state["trainer"]["_trainer"]["optimizer"]["state"]) > 0


@pytest.mark.parametrize(
    ("enabled", "dtype", "cpu_bfloat16", "device", "expected"),
    [
        (False, "float16", True, "cpu", None),
        (False, "float16", True, "cuda", None),
        (True, "float16", False, "cpu", None),
        (True, "float16", True, "cpu", torch.bfloat16),
        (True, "float16", False, "cuda", torch.float16),
        (True, "bfloat16", False, "cuda", torch.bfloat16),
    ],
)
def test_autocast_dtype(cfg, enabled, dtype, cpu_bfloat16, device, expected):
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = enabled, dtype
    cfg.SOLVER.AMP.CPU_BFLOAT16 = cpu_bfloat16
    assert autocast_dtype(cfg, device) is expected


def test_unknown_autocast_dtype(cfg):
    cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE is 'half'"):
        autocast_dtype(cfg, "cuda")


@pytest.mark.parametrize(("cpu_bfloat16", "expected"), [(False, None), (True, torch.bfloat16)])
def test_precision_on_cpu(cfg, cpu_bfloat16, expected):
    cfg.SOLVER.MAX_ITER = 1
    cfg.SOLVER.AMP.CPU_BFLOAT16 = cpu_bfloat16
    model = train(cfg).model
    assert model.autocast_dtype is expected
    assert all(p.dtype == torch.float32 for p in model.parameters())


class BrokenPhotoTrainer(TinyTrainer):
    @staticmethod
    def mapper(record):
        record = augment(record)
        if record["file_name"] == "photo_3.jpg":
            record["image"][:] = np.nan
        return record


def test_loss_that_is_not_finite_stops_the_training(cfg):
    cfg.SOLVER.WARMUP_ITERS = 0
    trainer = BrokenPhotoTrainer(cfg)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    message = str(caught.value)
    for part in ("iteration", "photo_3.jpg", "loss_points nan", "loss_size", "rates 0.0", "norm"):
        assert part in message
    assert not Path(cfg.OUTPUT_DIR, "model_final.pth").exists()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


class SquareRoot(nn.Module):
    """At 0 the loss is finite, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": self.weight.sqrt().sum()}


def test_gradient_that_is_not_finite_stops_the_training():
    model = SquareRoot()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = TrainLoop(model, optimizer, data_loader=[[{"file_name": "a.jpg"}]])
    with pytest.raises(FloatingPointError, match=r"gradient is not\n  images a\.jpg: loss 0"):
        loop.train(0, 1)
    assert model.weight.item() == 0


def test_resume_with_another_precision():
    """A state without a loss scale loads where one is used, and the other way round."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    plain = TrainLoop(model, optimizer)
    scaled = TrainLoop(model, optimizer, dtype=torch.float16)
    assert scaled.grad_scaler.is_enabled()
    scaled.load_state_dict(plain.state_dict())
    plain.load_state_dict(scaled.state_dict())


class MeanProduct(nn.Module):
    """The mean over the images of a loss of its own; keeps the sizes of the batches."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(len(batch))
        x = torch.stack([record["x"] for record in batch])
        return {"a": (x @ self.weight).square().mean(), "b": self.weight.abs().sum()}


def images(count):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return [{"file_name": f"{number}.jpg", "x": row} for number, row in enumerate(x)]


def test_accumulated_parts_are_the_whole():
    results = []
    for accumulate in (1, 3):
        model = MeanProduct()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loop = TrainLoop(model, optimizer, data_loader=[images(6)], accumulate=accumulate)
        with EventStorage() as loop.storage:
            loop.run_step()
            metrics = {name: value for name, (value, _) in loop.storage.latest().items()}
        assert model.sizes == [6 // accumulate] * accumulate
        del metrics["data_time"]
        results.append((model.weight.detach(), metrics))
    (weight, metrics), (weight_of_parts, metrics_of_parts) = results
    torch.testing.assert_close(weight_of_parts, weight)
    assert metrics_of_parts == pytest.approx(metrics)


def test_accumulation_exchanges_gradients_once(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(MeanProduct())
        buckets = []

        def exchange(state, bucket):
            buckets.append(bucket.buffer().clone())
            return default_hooks.allreduce_hook(state, bucket)

        model.register_comm_hook(None, exchange)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loop = TrainLoop(model, optimizer, data_loader=[images(4)], accumulate=2)
        with EventStorage() as loop.storage:
            loop.run_step()
        assert len(buckets) == 1
        torch.testing.assert_close(buckets[0], model.module.weight.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_batch_that_cannot_be_split():
    model = MeanProduct()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = TrainLoop(model, optimizer, data_loader=[images(4)], accumulate=3)
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATE: 4 images .* into 3 micro-batches"):
        loop.train(0, 1)
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATE: expected at least 1, got 0"):
        TrainLoop(model, optimizer, accumulate=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_training_on_gpu(cfg, dtype):
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.AMP.DTYPE = dtype
    unbroken = train(in_folder(cfg, "unbroken"))
    assert unbroken.model.autocast_dtype is getattr(torch, dtype)
    broken = in_folder(cfg, "broken")
    train(broken, stop_at=4)
    resumed = train(broken, resume=True)
    assert resumed.losses == pytest.approx(unbroken.losses[3:], rel=1e-3)
    scalers = [trainer.state_dict()["_trainer"]["grad_scaler"] for trainer in (unbroken, resumed)]
    assert scalers[0] == scalers[1]
    assert bool(scalers[0]) == (dtype == "float16")
