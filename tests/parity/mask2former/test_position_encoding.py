"""Sine position encoding against the official one."""

import torch

from parity.golden import parametrize_cases
from segcore.layers import SinePositionEncoding


@parametrize_cases("mask2former", "op_sine_position")
def test_sine_position_encoding(case, comparison):
    for name, options in case.info["cases"].items():
        encoding = SinePositionEncoding(options["num_pos_feats"], normalize=options["normalize"])
        size = (options["h"], options["w"])
        mask = torch.from_numpy(case.arrays[f"mask_{name}"]) if options["masked"] else None
        actual = encoding(size, device="cpu", padding_mask=mask).expand(
            options["batch"], -1, -1, -1
        )
        comparison.close(name, actual, case.arrays[f"pos_{name}"], case.tolerance)
    comparison.check()
