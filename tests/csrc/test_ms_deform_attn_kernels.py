"""CUDA kernels of multi-scale deformable attention, lane by lane on the CPU, against the twin."""

import ctypes

import pytest
import torch

from segcore.ops import ms_deform_attn_reference

SOURCE = "ms_deform_attn_on_host.cpp"


def pointers(*tensors):
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


@pytest.mark.parametrize(
    ("dtype", "vector", "lanes", "channels", "levels", "points"),
    [
        (torch.float64, 1, 32, 1, [(3, 4)], 1),
        (torch.float64, 1, 32, 30, [(3, 4), (2, 2)], 4),
        (torch.float64, 1, 32, 71, [(3, 4), (1, 1), (2, 5)], 3),
        (torch.float64, 2, 4, 8, [(3, 4), (2, 2), (5, 1)], 4),
        (torch.float64, 2, 4, 12, [(3, 4), (2, 2)], 2),
        (torch.float64, 2, 16, 32, [(3, 4), (2, 2), (5, 1)], 4),
        (torch.float32, 1, 32, 7, [(3, 4), (2, 2)], 20),
        (torch.float32, 4, 4, 16, [(3, 4), (2, 2)], 4),
        (torch.float32, 4, 8, 32, [(6, 4), (3, 2), (2, 1)], 4),
        (torch.float32, 4, 16, 64, [(3, 4)], 4),
        (torch.float32, 4, 32, 256, [(3, 4), (2, 2)], 2),
        (torch.float16, 8, 4, 32, [(6, 4), (3, 2), (2, 1)], 4),
        (torch.float16, 8, 8, 40, [(3, 4), (2, 2)], 4),
    ],
)
def test_ms_deform_attn(kernels, dtype, vector, lanes, channels, levels, points):
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    batch, queries, heads = 2, 3, 3
    tokens = sum(height * width for height, width in levels)
    sizes = torch.tensor([batch, tokens, heads, channels, queries, len(levels), points])
    shapes = torch.tensor(levels)
    value = torch.randn(batch, tokens, heads, channels, generator=generator).to(dtype)
    locations = torch.rand(batch, queries, heads, len(levels), points, 2, generator=generator)
    locations = (locations * 1.6 - 0.3).to(precision)
    locations[0, 0, 0, 0, 0] = torch.tensor([torch.inf, 0.5])
    locations[0, 1, 0, 0, 0] = torch.tensor([0.5, torch.nan])
    weights = torch.randn(batch, queries, heads, len(levels), points, generator=generator)
    weights = weights.to(precision)
    grad_output = torch.randn(batch, queries, heads * channels, generator=generator).to(dtype)

    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    expected = ms_deform_attn_reference(value, levels, locations, weights)
    expected_grads = torch.autograd.grad(expected, inputs, grad_output)

    suffix = f"{str(dtype).removeprefix('torch.')}_{vector}_{lanes}"
    arguments = pointers(sizes, shapes, *inputs)
    output = torch.full((batch, queries, heads * channels), torch.nan, dtype=dtype)
    getattr(kernels, f"forward_{suffix}")(*arguments, *pointers(output))
    grads = [
        torch.zeros(value.shape, dtype=precision),
        torch.full(locations.shape, torch.nan, dtype=precision),
        torch.full(weights.shape, torch.nan, dtype=precision),
    ]
    getattr(kernels, f"backward_{suffix}")(*arguments, *pointers(grad_output, *grads))
    torch.testing.assert_close(output, expected)
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(grads[0].to(dtype), expected_grads[0])
    torch.testing.assert_close(grads[1], expected_grads[1], **tolerance)
    torch.testing.assert_close(grads[2], expected_grads[2], **tolerance)
