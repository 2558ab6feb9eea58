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


def test_kernels_of_the_report_exist(tool):
    for title, source, pattern, _ in tool.KERNELS:
        kernel = re.search(r"\w+_kernel", pattern)[0]
        text = (ROOT / f"csrc/cuda/{source}.cuh").read_text()
        assert re.search(rf"\b{kernel}\(", text), title
