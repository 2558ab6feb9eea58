"""tools/gpu_check: what becomes of results, and that its checks can fail."""

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tools.gpu_check import cases, execution, operators, runner, sizes, training
from tools.gpu_check.markdown import render
from tools.gpu_check.results import Check, Listing, PartResult, Table, Unavailable, check

ROOT = Path(__file__).resolve().parents[2]


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("function", "outcome", "detail"),
    [
        (lambda: "3 GB/s", "passed", "3 GB/s"),
        (lambda: fail(Unavailable("needs a GPU")), "skipped", "needs a GPU"),
        (lambda: importlib.import_module("no_such_module"), "skipped", "no_such_module"),
        (lambda: fail(AssertionError("error 1")), "failed", "AssertionError: error 1"),
        (lambda: fail(RuntimeError("CUDA error")), "failed", "RuntimeError: CUDA error"),
    ],
)
def test_outcome_of_a_check(function, outcome, detail):
    result = check("name", function)
    assert result.outcome == outcome
    assert detail in result.detail


def test_page_has_a_summary_and_a_section_a_part():
    results = [Check("a | b", "failed", "two\nlines"), Check("c", "passed"), Listing("verbatim\n")]
    tables = [Table("Speed", ("what", "us"), [("ours", "3")])]
    parts = [PartResult("one", "Says what.", results, 2.4), PartResult("two_b", "", tables, 1)]
    page = render("Run on it.", parts)
    assert "| one | 1 | 1 | 0 | 2 |" in page
    assert "## One\n\nSays what.\n\n| check | outcome | detail |" in page
    assert "| a \\| b | failed | two lines |" in page
    assert "```\nverbatim\n```" in page
    assert "## Two b\n\n### Speed\n\n| what | us |\n| --- | --- |\n| ours | 3 |" in page


CRASHES = "import os; os._exit(3)"
HANGS = "import time; time.sleep(60)"
LACKS = "import no_such_module"


@pytest.mark.parametrize(
    ("body", "limit", "last"),
    [
        (CRASHES, 60, Check("part", "failed", "the process ended with 3")),
        (HANGS, 5, Check("part", "failed", "not done after 5 s")),
        (LACKS, 60, Check("part", "skipped", "No module named 'no_such_module'")),
    ],
    ids=["crashes", "hangs", "lacks a package"],
)
def test_a_part_that_ends_early_keeps_its_results(body, limit, last, tmp_path, monkeypatch):
    (tmp_path / "part.py").write_text(
        "from tools.gpu_check.results import Check\n"
        f"def run(device):\n    yield Check('a', 'passed')\n    {body}\n"
    )
    monkeypatch.setattr(runner, "PACKAGE", "")
    monkeypatch.syspath_prepend(tmp_path)
    started = time.monotonic()
    part = runner.run_part("part", "cpu", limit)
    assert part.results == [Check("a", "passed"), last]
    assert time.monotonic() - started < 50


def test_errors_of_operators_are_found(monkeypatch):
    assert "twin" in operators._compare("point_gather", torch.float32, "cpu")
    twin = cases.twin("point_gather")
    monkeypatch.setattr(cases, "operator", lambda name: lambda **a: twin(**a) * 1.001)
    with pytest.raises(AssertionError, match=r"error 1.0e-03, at most"):
        operators._compare("point_gather", torch.float32, "cpu")


@pytest.mark.parametrize("claim", [execution._repeat, execution._deterministic, execution._compile])
def test_execution_on_the_cpu(claim):
    assert claim("neighborhood_merge", "cpu")
    assert claim("knn", "cpu")


def test_other_bits_are_found(monkeypatch):
    operator = cases.operator("point_gather")
    noisy = lambda **arguments: operator(**arguments) + torch.rand(()) / 100  # noqa: E731
    monkeypatch.setattr(cases, "operator", lambda name: noisy)
    for claim in (execution._repeat, execution._deterministic):
        with pytest.raises(AssertionError, match=r"other (values|bits): output"):
            claim("point_gather", "cpu")


@pytest.mark.parametrize("name", cases.SIZES)
def test_many_images_are_as_one(name, monkeypatch):
    monkeypatch.setitem(sizes.SIZES, name, {"channels": 8})
    assert "images" in sizes._repeat(name, 2**15, "cpu")


def test_random_numbers_are_those_of_the_cpu():
    torch.manual_seed(0)
    expected = torch.rand(3), torch.rand_like(torch.ones(2))
    torch.manual_seed(0)
    with training.RandomOnCpu():
        elsewhere = torch.rand(3, device="meta")
        like = torch.rand_like(torch.ones(2))
    assert elsewhere.device.type == "meta"
    assert torch.equal(like, expected[1])  # the numbers before it were drawn on the CPU


def test_program_says_what_it_lacks(tmp_path):
    page = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "cpu"]
    command += ["--parts", "sanitizer", "--output", page]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert "| sanitizer | skipped | needs a GPU |" in page.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_program_refuses_a_gpu_that_is_not_there():
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "cuda"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "PyTorch sees no GPU" in answer.stderr
