"""The report of the CUDA kernels: its arithmetic, and the names of kernels that it looks for."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("kernel_report", ROOT / "tools/kernel_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("registers", "shared", "warps"),
    [(32, 0, 64), (33, 0, 48), (42, 0, 40), (128, 0, 16), (255, 0, 8), (32, 40 << 10, 40)],
)
def test_occupancy(tool, registers, shared, warps):
    assert tool.ARCHITECTURES[90].occupancy(registers, shared) == warps


def test_traffic_of_an_encoder_call(tool):
    workload = tool.deformable(4, backward=False)
    assert workload.memory == pytest.approx(70.6e6, rel=1e-2)
    assert workload.rows == pytest.approx(1.08e9, rel=1e-2)
    halves = tool.deformable(2, backward=False, with_logits=True)
    assert halves.memory == pytest.approx(35.8e6, rel=1e-2)


def test_kernels_of_the_report_exist(tool):
    for title, namespace, pattern, _ in tool.KERNELS:
        kernel = re.search(r"\w+_kernel", pattern)[0]
        headers = (ROOT / "csrc/cuda").glob(f"{namespace}*.cuh")
        text = "".join(header.read_text() for header in headers)
        assert re.search(rf"\b{kernel}\(", text), title


def test_resources_of_a_library(tool):
    dump = """Fatbin elf code:
arch = sm_80
Resource usage:
 Function segcore::knn::search(int):
  REG:96 STACK:8 SHARED:2048 LOCAL:0
Fatbin elf code:
arch = sm_90
 Function segcore::knn::search(int):
  REG:87 STACK:0 SHARED:3072 LOCAL:0
"""
    name = "segcore::knn::search(int)"
    assert tool.resources(dump) == {80: {name: (96, 8, 2048)}, 90: {name: (87, 0, 2048)}}
