import subprocess
import sys

import pytest
import torch

from segcore.doctor.report import report
from segcore.ops import _library


def test_reports_every_operator_on_every_device():
    lines = report().splitlines()
    for name in _library.operators():
        for device in ("cpu", "cuda"):
            (line,) = [line for line in lines if line.split()[:2] == [name, device]]
            compiled = _library.is_compiled(name, device)
            assert ("compiled" in line.split()) == compiled
            assert ("PyTorch twin" in line) != bool(_library.serving_operator(name, device))


def test_reports_versions():
    assert torch.__version__ in report()


@pytest.mark.skipif(not _library.LIBRARIES["cpu"].loaded, reason="the operators are not built")
def test_reports_how_a_library_was_built():
    (line,) = [line for line in report().splitlines() if line.startswith("_C.abi3.so")]
    assert "headers of PyTorch" in line and "code here" in line


@pytest.mark.parametrize("sources", [True, False])
def test_libraries_are_built_from_sources_or_come_with_a_wheel(sources, tmp_path, monkeypatch):
    if sources:
        (tmp_path / "csrc").mkdir()
    monkeypatch.setattr(_library, "_FOLDER", tmp_path / "projects/segcore")
    assert ("setup.py build_ext" in report()) == sources
    assert ("make wheel CUDA=1" in report()) != sources


def test_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "segcore.doctor"], capture_output=True, text=True, check=True
    )
    assert "ms_deform_attn" in result.stdout
