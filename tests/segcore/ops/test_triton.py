"""Where Triton serves operators, and, in processes of their own, its interpreter and compiler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import operator_checks as checks
from segcore.doctor import report
from segcore.ops import _library, _triton

ROOT = Path(__file__).resolve().parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


without_sanitizers = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers have nothing to see in Triton"
)


def run(*command, **environment):
    result = subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs_triton
@without_sanitizers
@checks.needs_binary("ms_deform_attn")
def test_matches_the_twins_in_the_interpreter():
    file = Path(__file__).with_name("interpreted_triton.py")
    report = run(
        "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file), TRITON_INTERPRET="1"
    )  # fmt: skip
    assert " passed" in report and "skipped" not in report


@needs_triton
@without_sanitizers
def test_compiles_without_a_gpu(tmp_path):
    table = run(
        "tools/triton_report.py", "--architectures", "80", "--types", "float16",
        TRITON_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    for kernel in ("ms_deform_attn.backward_kernel", "cluster_attention.backward_keys_kernel"):
        (row,) = (line for line in table.splitlines() if kernel in line)
        registers, stack, *_ = (int(cell) for cell in row.split("|")[4:-1])
        assert 0 < registers < 255 and stack == 0


@needs_triton
@pytest.mark.parametrize(
    ("shape", "strides", "bits"),
    [
        ((2**31,), (1,), 32),
        ((2**31 + 1,), (1,), 64),
        ((3, 4), (2**30, 1), 64),
        ((2, 4), (2**30, 1), 32),
        ((0, 2**40), (2**40, 1), 32),
    ],
)
def test_offsets_beyond_2_to_the_31_are_64_bit(shape, strides, bits):
    launch = importlib.import_module("segcore.ops._triton.launch")
    tensor = torch.empty_strided(shape, strides, device="meta")
    assert launch.index_type(torch.empty(3), tensor).value.primitive_bitwidth == bits


@pytest.mark.parametrize(
    ("present", "problem"),
    [
        (("triton", "gcc", "Python.h"), ""),
        (("triton", "clang", "Python.h"), ""),
        (("gcc", "Python.h"), "Triton is not installed"),
        (("triton", "Python.h"), "needs a C compiler: gcc, clang"),
        (("triton", "gcc"), "needs Python's headers"),
    ],
    ids=str,
)
def test_the_reason_why_triton_cannot_serve(present, problem, monkeypatch, tmp_path):
    if "Python.h" in present:
        (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(_triton, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(_triton.shutil, "which", lambda name: name if name in present else None)
    monkeypatch.setattr(_triton.sysconfig, "get_path", lambda *names: str(tmp_path))
    assert (problem in _triton.find_problem()) if problem else not _triton.find_problem()


def library(problem):
    return _library.Library(Path("lib.so"), problem)


@pytest.mark.parametrize(
    ("cpu", "cuda", "triton", "served"),
    [
        ("", "", "lib.so is loaded", "compiled"),
        ("", "not built", "", "Triton"),
        ("", "not built", "no compiler", "PyTorch twin"),
        ("not built", "no schemas", "", "PyTorch twin"),
    ],
)
def test_triton_comes_after_the_library_and_before_the_twin(
    cpu, cuda, triton, served, monkeypatch
):  # fmt: skip
    monkeypatch.setattr(_library, "LIBRARIES", {"cpu": library(cpu), "cuda": library(cuda)})
    monkeypatch.setattr(_library, "TRITON_PROBLEM", triton)
    monkeypatch.setattr(_library, "_operators", {"ms_deform_attn": "", "knn": ""})
    assert _library.has_kernel("ms_deform_attn", "cuda") == (served != "PyTorch twin")
    assert _library.has_kernel("knn", "cuda") == (served == "compiled")
    assert _library.has_kernel("ms_deform_attn", "cpu") == (not cpu)
    implementation, reason = report._implementation("ms_deform_attn", "cuda")
    assert implementation == served
    assert cuda in reason and (triton in reason or served == "compiled")


@checks.needs_binary("ms_deform_attn")
def test_is_registered_where_it_serves():
    for name in _triton.OPERATORS:
        for function in (name, f"{name}_backward"):
            registered = torch._C._dispatch_has_kernel_for_dispatch_key(
                f"segcore::{function}", "CUDA"
            )
            assert registered == _library.has_kernel(name, "cuda")
