"""``segcore COMMAND``: help at once, imports of need only, and every row leads to something."""

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from segcore.cli import run, run_command
from segcore.cli.commands import COMMANDS, Command

ROOT = Path(__file__).resolve().parents[3]
HELP_OF_ALL = f"""
import os, runpy, sys
os.environ["COLUMNS"] = "80"
from segcore.cli import run
from segcore.cli.commands import COMMANDS

def ends(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except SystemExit as end:
        assert end.code == 0, args

for arguments in ([], *([name] for name in COMMANDS)):
    ends(run, [*arguments, "--help"])
for door in ("train_net.py", "demo.py"):
    sys.argv = [door, "--help"]
    ends(runpy.run_path, {str(ROOT)!r} + "/" + door, run_name="__main__")
slow = {{"torch", "detectron2", "numpy", "scipy", "cv2", "matplotlib"}} & set(sys.modules)
assert not slow, slow
"""
# Of each group, what its modules do not import: it serves rare options, or other commands.
WITHOUT_TORCH = ("compare", "convert", "merge", "models", "serve")
NOT_OF_FILES = {"torch", "detectron2", "cv2", "matplotlib", "scipy.ndimage", "scipy.optimize"}
NOT_OF_MODELS = {
    *("matplotlib", "scipy.ndimage", "scipy.optimize", "scipy.sparse", "jinja2", "timm", "av"),
    *("detectron2.engine", "detectron2.evaluation", "tensorboard", "onnx", "starlette"),
}
IMPORTED = """
import importlib, sys

for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sys.modules)
"""


def test_help_fits_80_columns_and_imports_nothing_slow():
    answer = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert [line for line in answer.stdout.splitlines() if len(line) > 80] == []
    for name, command in COMMANDS.items():
        assert f"{name} " in answer.stdout and command.summary in answer.stdout
    assert "usage: train_net.py" in answer.stdout


@pytest.mark.parametrize(
    "modules, unneeded",
    [
        ([COMMANDS[name].main.partition(":")[0] for name in WITHOUT_TORCH], NOT_OF_FILES),
        (["segcore.predictor", "segcore.demo.program", "segcore.export.command"], NOT_OF_MODELS),
    ],
    ids=["files", "models"],
)
def test_commands_import_what_they_need(modules, unneeded):
    command = [sys.executable, "-c", IMPORTED, *modules]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(modules) <= set(imported)
    assert not unneeded & set(imported)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser_and_does_something(name):
    assert callable(resolve_name(COMMANDS[name].main))
    assert resolve_name(COMMANDS[name].parser)().description


def test_arguments_reach_the_command(capsys):
    assert run(["train", "--config-file", "nowhere.yaml"]) == 2
    assert "config file nowhere.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["trian"]])
def test_a_command_is_needed(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(arguments)
    assert "COMMAND" in capsys.readouterr().err


def test_weights_are_an_option_of_training_and_evaluation(tmp_path, capsys):
    given = ["--config-file", "quickstart/mask2former_R18.yaml"]
    code = run(["evaluate", *given, "--weights", "w.pth", "OUTPUT_DIR", str(tmp_path), "A.KEY"])
    assert code == 2
    assert "A.KEY" in capsys.readouterr().err


def test_help_without_detectron2_says_what_to_run(monkeypatch, capsys):
    def parser():
        from segcore.errors import RequirementError

        raise RequirementError("Detectron2 is not installed in this Python")

    monkeypatch.setattr("segcore.cli.train.training_parser", parser)
    monkeypatch.setitem(COMMANDS, "train", Command("", "segcore.cli.train:training_parser", ""))
    assert run_command("train", []) == 1
    assert capsys.readouterr().err == "error: Detectron2 is not installed in this Python\n"
