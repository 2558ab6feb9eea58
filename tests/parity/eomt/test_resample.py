"""Pre-trained weights at another patch size and on another grid."""

import re

import torch

from eomt.checkpoint import resample_kernel, resample_positions
from parity.golden import generated, parametrize_cases


@parametrize_cases("eomt", "eomt_resample")
def test_resample(case, comparison):
    kernel, positions = (
        generated(
            case.info["inputs"][name].removesuffix(" as float32").split(" as float32")[0]
        ).float()
        for name in ("patch kernel", "position embedding")
    )
    for name, expected in case.arrays.items():
        if match := re.fullmatch(r"patch(\d+)", name):
            actual = resample_kernel(kernel, (int(match[1]),) * 2)
            comparison.close(name, actual, expected, 1e-4)
        else:
            grid = tuple(map(int, re.fullmatch(r"pos_(\d+)x(\d+)", name).groups()))
            comparison.close(name, resample_positions(positions, grid, 0), expected, 1e-5)
    assert kernel.dtype == torch.float32
    comparison.check()
