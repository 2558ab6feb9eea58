"""Multi-scale deformable attention and its initial values against the official ones."""

import re

import pytest
import torch

from parity.golden import parametrize_cases, z
from segcore.layers import MSDeformAttn
from segcore.ops import ms_deform_attn, ms_deform_attn_reference

NAMES = ("output", "grad_value", "grad_sampling_locations", "grad_attention_weights")


@pytest.mark.parametrize("operator", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@parametrize_cases("mask2former", "op_msdeform_")
def test_ms_deform_attn(case, dtype, operator, comparison):
    spec = case.info["spec"]
    batch, heads, channels = spec["N"], spec["M"], spec["D"]
    queries, points, shapes = spec["Lq"], spec["P"], spec["shapes"]
    samples = (batch, queries, heads, len(shapes), points)
    tokens = sum(height * width for height, width in shapes)

    name = case.name.replace("op_msdeform_", "msda_")
    value = torch.from_numpy(z(f"{name}.value", (batch, tokens, heads, channels)))
    locations = 0.5 + spec["spread"] * torch.from_numpy(z(f"{name}.loc", (*samples, 2)))
    logits = torch.from_numpy(z(f"{name}.weight", samples))
    weights = logits.flatten(-2).softmax(-1).view(samples)
    grad_output = torch.from_numpy(z(f"{name}.grad_out", (batch, queries, heads * channels)))

    inputs = [tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights)]
    output = operator(inputs[0], shapes, *inputs[1:])
    results = (output, *torch.autograd.grad(output, inputs, grad_output.to(dtype)))
    for name, actual in zip(NAMES, results, strict=True):
        tolerance = (
            case.tolerance
            if dtype == torch.float64
            else 10 * case.info["float32_vs_float64_max_abs"][name]
        )
        comparison.close(name, actual, case.arrays[name], tolerance)
    comparison.check()


@parametrize_cases("mask2former", "init_msdeform_bias")
def test_initial_bias(case, comparison):
    for name, expected in case.arrays.items():
        heads, levels, points = map(int, re.fullmatch(r"h(\d+)_l(\d+)_p(\d+)", name).groups())
        module = MSDeformAttn(4 * heads, levels, heads, points)
        comparison.close(name, module.sampling_offsets.bias, expected, case.tolerance)
    comparison.check()
