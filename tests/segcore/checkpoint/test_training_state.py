"""Resuming takes over the state of the same run, and says what is wrong with any other."""

import pytest
import torch
from torch import nn

from segcore.checkpoint import SafeCheckpointer, last_checkpoint
from segcore.errors import CheckpointError


class Run:
    """As a trainer: an iteration, and a seed and optimizer inside."""

    def __init__(self, model):
        self.iteration, self.seed = 0, 1
        self.optimizer = torch.optim.AdamW(model.parameters())

    def state_dict(self):
        inner = {"seed": self.seed, "optimizer": self.optimizer.state_dict()}
        return {"iteration": self.iteration, "_trainer": inner}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]
        self.seed = state["_trainer"]["seed"]
        self.optimizer.load_state_dict(state["_trainer"]["optimizer"])


def resume(folder, **changed):
    model = nn.Linear(2, 2)
    state = {"trainer": Run(model).state_dict(), **changed}
    state = {key: value for key, value in state.items() if value is not None}
    SafeCheckpointer(model, str(folder)).save("model", **state)
    run = Run(model)
    SafeCheckpointer(model, str(folder), trainer=run).resume_or_load("", resume=True)
    return run


def test_same_run(tmp_path):
    state = {**Run(nn.Linear(2, 2)).state_dict(), "iteration": 7}
    assert resume(tmp_path, trainer=state).iteration == 7


INNER = Run(nn.Linear(2, 2)).state_dict()["_trainer"]
OTHER = torch.optim.AdamW([nn.Parameter(torch.ones(1))]).state_dict()


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ("text", "trainer is a str, expected a dict"),
        ([], "trainer is a list, expected a dict"),
        ({"iteration": "x", "_trainer": INNER}, r"trainer\.iteration is a str, expected a int"),
        ({"iteration": True, "_trainer": INNER}, r"trainer\.iteration is a bool"),
        ({"iteration": 1}, "KeyError '_trainer'"),
        ({"iteration": 1, "_trainer": {"optimizer": INNER["optimizer"]}}, "KeyError 'seed'"),
        ({"iteration": 1, "_trainer": {**INNER, "optimizer": [1]}}, "optimizer is a list"),
        ({"iteration": 1, "_trainer": {**INNER, "optimizer": OTHER}}, "parameter group"),
        (
            {
                "iteration": 1,
                "_trainer": {
                    **INNER,
                    "optimizer": {"state": {}, "param_groups": [{"lr": "x", "params": [0, 1]}]},
                },
            },
            r"param_groups\.0\.lr is a str",
        ),
    ],
)
def test_another_run(tmp_path, trainer, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        resume(tmp_path, trainer=trainer)
    assert "weights alone: MODEL.WEIGHTS" in str(caught.value)
    assert str(caught.value).count("\n") < 3


def test_weights_without_training(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no state of the training \(trainer\)"):
        resume(tmp_path, trainer=None)


@pytest.mark.parametrize(
    "content", [b"../model.pth", b"/etc/passwd", b"", b"..", bytes(range(128, 256)), b"a\0b"]
)
def test_pointer_to_no_file_of_the_folder(tmp_path, content):
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(CheckpointError, match="last_checkpoint"):
        last_checkpoint(tmp_path)


def test_pointer_to_a_missing_file(tmp_path):
    (tmp_path / "last_checkpoint").write_text("none.pth")
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        checkpointer.resume_or_load("", resume=True)
    assert last_checkpoint(tmp_path / "other") is None
