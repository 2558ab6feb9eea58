"""The best checkpoint, the early stop, and both after a run was killed and resumed."""

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest

from segcore.checkpoint import read_checkpoint
from segcore.errors import ConfigError

from .conftest import TinyTrainer


class Killed(BaseException):
    """Ends a run like a signal."""


class ScriptedTrainer(TinyTrainer):
    """The evaluation after iteration i gives ``results[i]``; saved weights show the iteration."""

    results: dict[int, float]
    kill_at: int | None = None

    def test(self, cfg, model):
        iteration = min(self.iter, self.max_iter - 1)
        model.norm.num_batches_tracked.fill_(iteration)
        return {"task": {"score": self.results[iteration], "score-disc": 1.0}}

    def before_step(self):
        super().before_step()
        if self.iter == self.kill_at:
            raise Killed

    def after_train(self):
        if self.iter >= self.max_iter or self.kill_at is None:
            super().after_train()


@pytest.fixture
def best_cfg(cfg):
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    cfg.TEST.EVAL_PERIOD = 2
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    keys = cfg.TEST.BEST_CHECKPOINT
    keys.ENABLED, keys.METRIC = True, "task/score"
    return cfg


def run(cfg, *results: float, resume=False, kill_at=None) -> ScriptedTrainer:
    trainer = ScriptedTrainer(cfg)
    trainer.results = dict(zip((1, 3, 5, 7), results, strict=False))
    trainer.resume_or_load(resume=resume)
    trainer.kill_at = kill_at
    with suppress(Killed):
        trainer.train()
    return trainer


def iteration_of(cfg, name: str) -> int:
    checkpoint = read_checkpoint(Path(cfg.OUTPUT_DIR, f"{name}.pth"))
    return int(checkpoint["model"]["norm.num_batches_tracked"])


@pytest.mark.parametrize(
    ("mode", "results", "best"),
    [
        ("max", (1.0, 3.0, 3.0, 2.0), 3),
        ("min", (4.0, 5.0, 1.0, 2.0), 5),
        ("max", (math.nan, 1.0, math.nan, 2.0), 7),
    ],
)
def test_best_weights_are_kept(best_cfg, mode, results, best):
    best_cfg.TEST.BEST_CHECKPOINT.MODE = mode
    run(best_cfg, *results)
    assert iteration_of(best_cfg, "model_best") == best
    # A run is resumed from the last checkpoint, not from the best.
    assert Path(best_cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_final.pth"
    assert "trainer" not in read_checkpoint(Path(best_cfg.OUTPUT_DIR, "model_best.pth"))


def test_without_a_number_nothing_is_kept(best_cfg):
    run(best_cfg, *[math.nan] * 4)
    assert not Path(best_cfg.OUTPUT_DIR, "model_best.pth").exists()


def test_resumed_run_knows_the_best_before(best_cfg):
    run(best_cfg, 5.0, 1.0, kill_at=4)
    run(best_cfg, 0.0, 0.0, 4.0, 4.5, resume=True)
    assert iteration_of(best_cfg, "model_best") == 1


def test_training_ends_early(best_cfg):
    best_cfg.TEST.BEST_CHECKPOINT.PATIENCE = 1
    trainer = run(best_cfg, 1.0, 2.0, 1.0)
    assert trainer.iter == 5
    assert iteration_of(best_cfg, "model_best") == 3
    lines = Path(best_cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    assert [json.loads(line)["task/score"] for line in lines] == [1.0, 2.0, 1.0]
    # Resumed, it stays ended; with more patience it goes on.
    again = run(best_cfg, resume=True)
    assert again.start_iter == again.iter == 6
    best_cfg.TEST.BEST_CHECKPOINT.PATIENCE = 3
    assert len(run(best_cfg, 0.0, 0.0, 0.0, 3.0, resume=True).losses) == 2
    assert iteration_of(best_cfg, "model_best") == 7


def test_unknown_metric(best_cfg):
    best_cfg.TEST.BEST_CHECKPOINT.METRIC = "task/scores"
    expected = r"expected .* one of task/score, got 'task/scores'; did you mean task/score\?"
    with pytest.raises(ConfigError, match=expected):
        run(best_cfg, 1.0)


def test_nothing_to_evaluate(best_cfg):
    best_cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST: expected data to evaluate"):
        run(best_cfg)
