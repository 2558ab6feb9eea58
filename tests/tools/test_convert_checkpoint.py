"""tools/convert_checkpoint.py from file to file."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from segcore.checkpoint import read_checkpoint

TOOL = Path(__file__).resolve().parents[2] / "tools/convert_checkpoint.py"


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_there_and_back(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    official = {"model": {"weight": weight, "bias": weight[:, 0]}, "__author__": "theirs"}
    (tmp_path / "official.pkl").write_bytes(pickle.dumps(official))
    source = tmp_path / "official.pkl"
    for target in ("a.safetensors", "b.pth", "c.pkl"):
        done = convert(source, tmp_path / target)
        assert done.returncode == 0, done.stderr
        assert "bias" in done.stdout
        source = tmp_path / target
    loaded = read_checkpoint(source)
    assert loaded["__author__"] == "theirs"
    np.testing.assert_array_equal(loaded["model"]["weight"], weight)

    model = nn.Linear(3, 2)
    DetectionCheckpointer(model).load(str(source))  # Detectron2 itself reads it too
    np.testing.assert_array_equal(model.weight.detach(), weight)


def test_training_state_stays_behind(tmp_path):
    checkpoint = {"model": {"a": torch.ones(1)}, "trainer": {"iteration": 3}, "iteration": 3}
    torch.save(checkpoint, tmp_path / "model.pth")
    assert convert(tmp_path / "model.pth", tmp_path / "weights.pth").returncode == 0
    assert read_checkpoint(tmp_path / "weights.pth").keys() == {"model"}


def test_swin_keeps_its_names(tmp_path):
    state = {"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(169, 3)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    done = convert(tmp_path / "swin.pth", tmp_path / "swin.pkl", "--backbone", "swin")
    assert done.returncode == 0, done.stderr
    loaded = read_checkpoint(tmp_path / "swin.pkl")
    assert list(loaded["model"]) == list(state)
    assert loaded["matching_heuristics"] is True


def test_errors_are_one_line(tmp_path):
    failed = convert(tmp_path / "none.pkl", tmp_path / "out.pth")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "none.pkl" in failed.stderr
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "model.pth")
    failed = convert(tmp_path / "model.pth", tmp_path / "out.pth", "--backbone", "swin")
    assert failed.stderr.startswith("error: expected an original Swin")
    assert not (tmp_path / "out.pth").exists()
