"""``segcore export``: from the folder of a training to a file that says what it holds."""

import json
import re

import pytest
import torch

from segcore.cli import run_command
from segcore.export.writing import METADATA
from trained_folder import train

NETWORK = ("--format", "torch_export", "--normalized", "--outputs", "network")


def test_export_of_a_training(tmp_path, capsys):
    path = tmp_path / "model.pt2"
    weights = ("--weights", str(train(tmp_path / "run")), "--output", str(path))
    assert run_command("export", [*weights, *NETWORK, "--size", "64x96", "--check", "64x96"]) == 0
    printed = capsys.readouterr().out
    assert "class_logits, mask_logits" in printed and "64x96, beside the model:" in printed
    extra = {METADATA: ""}
    torch.export.load(path, extra_files=extra)
    about = json.loads(extra[METADATA])
    assert about["outputs"] == ["class_logits", "mask_logits"]
    assert [category["name"] for category in about["categories"]] == ["cat", "dog", "sky"]
    assert about["divisor"] == 32 and about["input"] == "normalized images"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "64x96", "--output", "m.onnx"), r"m\.onnx: expected a name that ends in \.pt2"),
        (("--size", "64x90", "--output", "m.pt2"), "size: expected .* multiples of 32, got 64x90"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    weights = ("--weights", str(train(tmp_path / "run")))
    assert run_command("export", [*weights, *NETWORK, *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert not list(tmp_path.glob("m.*"))
