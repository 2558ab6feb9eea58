"""``metrics.json`` of a run that was killed and resumed is that of an unbroken one."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from segcore.engine.metrics_file import MetricsFile
from segcore.errors import OutputError

from .conftest import TinyTrainer

# What differs from run to run, also of unbroken ones.
TIMES = {"time", "data_time", "eta_seconds"}


class EvaluatedTrainer(TinyTrainer):
    """The evaluation reports the number of evaluations made, and may be killed."""

    killed_in_evaluation_at: int | None = None

    def test(self, cfg, model):
        if self.iter == self.killed_in_evaluation_at:
            raise Killed
        weight = next(model.parameters())
        return {"task": {"metric": weight.detach().double().sum().item()}}


class Killed(BaseException):
    """Ends a run like a signal: no hook gets to write anything."""


def run(cfg, folder: str, *, resume: bool = False, kill_at=None, kill_in_evaluation_at=None):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / folder)

    class Trainer(EvaluatedTrainer):
        killed_in_evaluation_at = kill_in_evaluation_at

        def before_step(self):
            super().before_step()
            if self.iter == kill_at:
                raise Killed

        def after_train(self):
            if self.iter >= self.max_iter:
                super().after_train()

    torch.manual_seed(0)  # of the initial weights
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    with suppress(Killed):
        trainer.train()
    return Path(cfg.OUTPUT_DIR, "metrics.json")


def lines(path: Path) -> list[dict]:
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in path.read_text().splitlines()
    ]


@pytest.fixture
def long_cfg(cfg):
    cfg.SOLVER.MAX_ITER = 50
    cfg.SOLVER.CHECKPOINT_PERIOD = 10
    cfg.TEST.EVAL_PERIOD = 15
    return cfg


@pytest.fixture
def unbroken(long_cfg) -> list[dict]:
    return lines(run(long_cfg, "unbroken"))


def test_lines_of_an_unbroken_run(unbroken):
    assert [line["iteration"] for line in unbroken] == [14, 19, 29, 39, 44, 49, 50]
    assert [line["iteration"] for line in unbroken if "task/metric" in line] == [14, 29, 44, 50]


@pytest.mark.parametrize(
    "killed",
    [
        {"kill_at": 3},  # before any checkpoint
        {"kill_at": 20},  # right after a checkpoint
        {"kill_at": 37},
        {"kill_in_evaluation_at": 29},  # after the checkpoint of the same iteration
        {"kill_in_evaluation_at": 44},
        {"kill_in_evaluation_at": 50},  # in the last evaluation
    ],
    ids=str,
)
def test_resumed_run_has_the_same_lines(long_cfg, unbroken, killed):
    path = run(long_cfg, "broken", **killed)
    with path.open("a") as file:
        file.write('{"iteration": 4')  # killed while it wrote
    assert lines(run(long_cfg, "broken", resume=True)) == unbroken


def test_killed_twice(long_cfg, unbroken):
    run(long_cfg, "broken", kill_at=25)
    run(long_cfg, "broken", resume=True, kill_at=42)
    assert lines(run(long_cfg, "broken", resume=True)) == unbroken


def test_finished_run_resumed(long_cfg, unbroken):
    run(long_cfg, "finished")
    assert lines(run(long_cfg, "finished", resume=True)) == unbroken


def test_failed_write_names_the_file(cfg):
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.metrics_file.path = Path("/dev/full")
    with pytest.raises(OutputError, match=r"/dev/full: cannot be written: No space left"):
        trainer.train()


def test_without_a_file_nothing_is_written():
    hook = MetricsFile(None)
    hook.restore(None, 5)
    assert hook.last_written == -1


@pytest.mark.parametrize(
    "scalars",
    [
        [1],
        {"loss": 1},
        {"loss": {"smoothing": True}},
        {"loss": {"smoothing": True, "values": [1]}},
        {"loss": {"smoothing": True, "values": [["x", 1]]}},
    ],
)
def test_window_of_another_form_is_refused_when_it_is_loaded(scalars):
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        MetricsFile(None).load_state_dict({"scalars": scalars})
