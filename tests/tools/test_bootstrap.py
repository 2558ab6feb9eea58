"""tools/bootstrap.py: which steps are taken, repeated, left out."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The script, at work in an empty folder, its virtual environment being there."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    (tmp_path / "stamps").mkdir()
    (tmp_path / "input.txt").write_text("1")
    return module


@pytest.fixture
def add_step(tool, monkeypatch):
    """Function that adds a step and returns the list that grows when the step is taken."""
    monkeypatch.setattr(tool, "STEPS", ())

    def add(name, error=None, **fields):
        taken = []

        def run():
            taken.append(name)
            if error:
                raise error

        step = tool.Step(name, f"Step {name}", ("input.txt",), run, **fields)
        monkeypatch.setattr(tool, "STEPS", (*tool.STEPS, step))
        return taken

    return add


def test_step_is_taken_once(tool, add_step, capsys):
    taken = add_step("a")
    tool.bootstrap()
    assert "[1/1] Step a" in capsys.readouterr().out
    tool.bootstrap()
    assert taken == ["a"]
    assert capsys.readouterr().out == ""


def test_step_is_repeated_when_its_input_changes(tool, add_step, tmp_path):
    taken = add_step("a")
    tool.bootstrap()
    (tmp_path / "input.txt").write_text("2")
    tool.bootstrap()
    assert taken == ["a", "a"]


def test_step_is_repeated_when_its_output_is_gone(tool, add_step, tmp_path):
    taken = add_step("a", output="built.*")
    (tmp_path / "built.so").touch()
    tool.bootstrap()
    tool.bootstrap()
    assert taken == ["a"]
    (tmp_path / "built.so").unlink()
    tool.bootstrap()
    assert taken == ["a", "a"]


def test_failure_stops_and_is_repeated(tool, add_step):
    first = add_step("a", error=tool.SetupError("no network"))
    second = add_step("b")
    for _ in range(2):
        with pytest.raises(tool.SetupError, match="no network"):
            tool.bootstrap()
    assert (first, second) == (["a", "a"], [])


def test_interrupted_repetition_is_not_taken_for_done(tool, add_step, tmp_path, monkeypatch):
    add_step("a")
    tool.bootstrap()
    (tmp_path / "input.txt").write_text("2")
    monkeypatch.setattr(tool, "STEPS", ())
    add_step("a", error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tool.bootstrap()
    (tmp_path / "input.txt").write_text("1")
    assert not tool.is_done(tool.STEPS[0])


def test_failure_with_a_way_around_is_a_warning(tool, add_step, capsys):
    add_step("a", error=tool.SetupError("no compiler"), without="the slow way is taken")
    after = add_step("b")
    tool.bootstrap()
    assert "WARNING: no compiler\n==> the slow way is taken" in capsys.readouterr().out
    assert after == ["b"]


def test_cuda_needs_nvcc(tool, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(tool.SetupError, match="nvcc"):
        tool.build_cuda()


def test_cuda_toolkit_is_where_nvcc_says(tool, tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho '#$ _HERE_=/somewhere/cuda/bin' >&2\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LIBRARY_PATH", "/mine")
    environment = tool.cuda_environment()
    assert environment["CUDA_HOME"] == "/somewhere/cuda"
    assert environment["LIBRARY_PATH"] == "/mine:/somewhere/cuda/lib64"


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python3"])
def test_make_needs_a_present_python(python):
    answer = subprocess.run(
        ["make", "install", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode != 0
    assert f"Python 3.10 or newer is needed, {python} is not" in answer.stderr
