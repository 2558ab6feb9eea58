import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import operator_checks as checks
from segcore.ops import winograd_conv2d, winograd_conv2d_reference

needs_binary = checks.needs_binary("winograd_conv2d")

# Batch, channels, filters, height, width: multiples of lanes and tiles, and others; several blocks
# of tiles, several groups of filters.
SIZES = [
    (1, 16, 24, 8, 12),
    (2, 19, 11, 13, 9),
    (1, 3, 5, 1, 1),
    (2, 8, 8, 5, 2),
    (1, 8, 9, 70, 75),
    (1, 400, 170, 10, 9),
]


def make_inputs(size, dtype):
    batch, channels, filters, height, width = size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(filters, channels, 3, 3, generator=generator, dtype=dtype)
    bias = torch.randn(filters, generator=generator, dtype=dtype)
    return x, weight, bias


@pytest.mark.parametrize("operator", [winograd_conv2d, winograd_conv2d_reference])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_equals_convolution(size, dtype, operator):
    x, weight, bias = make_inputs(size, dtype)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    tolerance = {"rtol": 0, "atol": 4e-6 if dtype == torch.float32 else 1e-14}
    scale = expected.abs().max()
    for relu, result in ((False, expected), (True, expected.relu())):
        actual = operator(x, weight, bias, relu=relu)
        assert actual.dtype == dtype and actual.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(actual.double() / scale, result / scale, **tolerance)
    factors = torch.linspace(-1, 2, len(bias), dtype=dtype)
    scaled = operator(x, weight, scale=factors).double()
    expected = (expected - bias.double()[:, None, None]) * factors.double()[:, None, None]
    torch.testing.assert_close(scaled / scale, expected / scale, **tolerance)


@needs_binary
def test_memory_format_does_not_matter():
    x, weight, bias = make_inputs((2, 16, 16, 9, 10), torch.float32)
    expected = winograd_conv2d(x, weight, bias)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(winograd_conv2d(channels_last, weight, bias), expected)
    assert torch.equal(winograd_conv2d(x.mT.contiguous().mT, weight, bias), expected)


@needs_binary
@pytest.mark.parametrize("relu", [False, True])
def test_one_pixel_that_is_not_a_number_stays_in_its_tiles(relu):
    x, weight, bias = make_inputs((1, 9, 9, 16, 16), torch.float32)
    expected = winograd_conv2d(x, weight, bias, relu=relu)
    x[0, 3, 1, 1] = torch.nan
    actual = winograd_conv2d(x, weight, bias, relu=relu)
    assert actual[..., :3, :3].isnan().all()
    assert torch.equal(actual[..., 4:, 4:], expected[..., 4:, 4:])


@needs_binary
def test_follows_rules_of_operators():
    x, weight, bias = make_inputs((2, 9, 8, 7, 6), torch.float32)
    operator = torch.ops.segcore.winograd_conv2d
    opcheck(operator.default, (x, weight, bias, bias, True))
    opcheck(operator.default, (x, weight, None, None, False))


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (1, 4, 0, 6)])
def test_without_pixels(shape):
    x, weight = torch.zeros(shape), torch.ones(3, 4, 3, 3)
    assert winograd_conv2d(x, weight).shape == (shape[0], 3, *shape[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 5)}, r"x: expected shape \(B, C, H, W\), got \(1, 4, 5\)"),
        ({"x": torch.zeros(1, 4, 5, 5).half()}, "x: expected float32 or float64, got .*float16"),
        ({"weight": torch.zeros(36, 4, 3)}, r"weight: expected shape \(K, C, 3, 3\)"),
        ({"weight": torch.zeros(3, 5, 3, 3)}, r"weight: expected shape \(3, 4, 3, 3\)"),
        ({"weight": torch.zeros(3, 4, 5, 5)}, r"weight: expected shape \(3, 4, 3, 3\)"),
        ({"weight": torch.zeros(3, 4, 3, 3).double()}, "weight: expected the type of x"),
        ({"bias": torch.zeros(4)}, r"bias: expected shape \(3,\), got \(4,\)"),
        ({"scale": torch.zeros(3).double()}, "scale: expected the type of x"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"x": torch.zeros(1, 4, 5, 5), "weight": torch.zeros(3, 4, 3, 3)}
    with pytest.raises((TypeError, ValueError), match=message):
        winograd_conv2d(**(arguments | change))
