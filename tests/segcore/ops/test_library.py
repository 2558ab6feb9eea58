"""The package without its compiled libraries, and with broken ones."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import operator_checks as checks
import segcore
from segcore import ops
from segcore.ops import _library

CATCHING = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    import segcore, segcore.ops
    value, weights = torch.rand(1, 6, 2, 4, requires_grad=True), torch.rand(1, 3, 2, 1, 1)
    arguments = (value, [(2, 3)], torch.rand(1, 3, 2, 1, 1, 2), weights)
    output = segcore.ops.ms_deform_attn(*arguments)
{}
for warning in caught:
    if "segcore" in str(warning.message):
        print("WARNING", warning.message)
"""
USE = """
    output.sum().backward()
    compiled = torch.compile(segcore.ops.ms_deform_attn, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), output)
assert value.grad.abs().sum() > 0
assert "detectron2" not in __import__("sys").modules
from segcore.analysis.formulas import FORMULAS
assert "ms_deform_attn" not in {name for name, _ in FORMULAS.values()}
from segcore.doctor.report import report
print(report())
"""


@pytest.fixture
def package(tmp_path):
    """A copy of segcore without compiled libraries."""
    source = Path(segcore.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(source, tmp_path / "segcore", ignore=ignored)
    return tmp_path / "segcore"


def run(package, *arguments):
    command = [sys.executable, "-P", *arguments]
    environment = {"PYTHONPATH": str(package.parent), "PATH": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def warnings_of(output):
    return [line for line in output.splitlines() if line.startswith("WARNING")]


def test_the_twin_serves_with_one_warning_and_the_doctor_says_why(package):
    report = run(package, "-c", CATCHING.format(USE))
    (warning,) = warnings_of(report)
    assert "has not been built" in warning and "make wheel" in warning and "doctor" in warning
    assert "not loaded" in report
    assert "PyTorch twin" in report
    assert "_C.abi3.so has not been built" in report.replace(warning, "")


def test_a_broken_library_is_no_error(package):
    (package / "_C.abi3.so").write_bytes(b"this is no library")
    (warning,) = warnings_of(run(package, "-c", CATCHING.format("")))
    assert "cannot be loaded" in warning


def test_a_library_for_another_cuda_is_named(tmp_path, monkeypatch):
    (tmp_path / "_C_cuda13.abi3.so").touch()
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)
    schemas = _library.Library(tmp_path / "_C.abi3.so", "")
    library = _library._load_cuda(schemas, "12.8")
    assert library.path.name == "_C_cuda12.abi3.so"
    assert library.problem == "_C_cuda13.abi3.so is not for CUDA 12.8, which PyTorch is built for"
    assert "cannot be loaded" in _library._load_cuda(schemas, "13.0").problem
    assert "without CUDA" in _library._load_cuda(schemas, None).problem


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_devices_without_kernels_get_the_twin(device):
    assert not _library.is_compiled("knn", device)
    assert _library.why_not_compiled("knn", device)


public_functions = pytest.mark.parametrize(
    "name", [name for name in _library.operators() if not name.endswith("_backward")]
)


@public_functions
def test_public_functions_have_names_and_code_of_their_own(name):
    for function in (getattr(ops, name), getattr(ops, f"{name.rstrip('_')}_reference")):
        assert function.__name__ == function.__code__.co_name
        assert function.__doc__


@checks.needs_binary("knn")
@public_functions
def test_arguments_are_those_of_the_schema(name):
    arguments = sys.modules[getattr(ops, name).__module__].Arguments
    schema = getattr(torch.ops.segcore, name).default._schema
    assert list(arguments._fields) == [argument.name for argument in schema.arguments]
