import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import operator_checks as checks
from segcore.ops import group_norm_, group_norm_reference

needs_binary = checks.needs_binary("group_norm_")
CHANNELS_LAST = {"memory_format": torch.channels_last}
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}

# Batch, channels, groups, height, width, and of the coarse map.
SIZES = [
    (2, 16, 4, 7, 9, 4, 5),
    (1, 21, 7, 8, 8, 4, 4),
    (1, 3, 1, 5, 6, 1, 2),
    (2, 8, 8, 2, 3, 5, 7),
]


def make_arguments(size, dtype=torch.float32, with_coarse=True, relu=False):
    batch, channels, groups, height, width, *coarse = size
    generator = torch.Generator().manual_seed(0)
    x, coarse = (
        torch.randn(batch, channels, *sides, generator=generator).to(dtype, **CHANNELS_LAST)
        for sides in ((height, width), coarse)
    )
    weight, bias = torch.randn(2, channels, generator=generator).to(dtype)
    return (x + 5, groups, weight, bias, 1e-3, coarse if with_coarse else None, relu)


def expected_of(arguments):
    x, groups, weight, bias, eps, coarse, relu = (
        argument.double() if isinstance(argument, torch.Tensor) else argument
        for argument in arguments
    )
    result = F.group_norm(x, groups, weight, bias, eps)
    if coarse is not None:
        result += F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
    return result.relu() if relu else result


@pytest.mark.parametrize("operator", [group_norm_, group_norm_reference])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("with_coarse", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_steps_of_pytorch(size, relu, with_coarse, dtype, operator):
    arguments = make_arguments(size, dtype, with_coarse, relu)
    expected = expected_of(arguments)
    assert operator(*arguments) is None
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(arguments[0].double(), expected, rtol=tolerance, atol=tolerance)


@needs_binary
def test_statistics_of_values_far_from_zero():
    x, *others = make_arguments((1, 8, 2, 30, 30, 1, 1), with_coarse=False)
    expected = expected_of([x + 1000, *others])
    x += 1000
    group_norm_(x, *others)
    torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=3e-4)


@needs_binary
def test_follows_rules_of_operators():
    operator = torch.ops.segcore.group_norm_.default
    opcheck(operator, make_arguments(SIZES[0]))
    opcheck(operator, make_arguments(SIZES[1], with_coarse=False, relu=True))


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (1, 4, 0, 6)])
def test_without_pixels(shape):
    x = torch.zeros(shape).to(**CHANNELS_LAST)
    group_norm_(x, 2, torch.ones(4), torch.zeros(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 5)}, r"x: expected shape \(B, C, H, W\), got \(1, 4, 5\)"),
        ({"x": torch.zeros(1, 4, 5, 5).int()}, "x: expected one of .*float16.*got .*int32"),
        ({"x": torch.zeros(1, 4, 5, 5).half()}, "weight: expected the type of x, torch.float16"),
        ({"weight": torch.zeros(3)}, r"weight: expected shape \(4,\), got \(3,\)"),
        ({"bias": torch.zeros(4).double()}, "bias: expected the type of x"),
        ({"coarse": torch.zeros(1, 3, 2, 2)}, r"coarse: expected shape \(1, 4, 2, 2\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    x = torch.zeros(1, 4, 5, 5).to(**CHANNELS_LAST)
    arguments = {"x": x, "groups": 2, "weight": torch.ones(4), "bias": torch.ones(4)}
    with pytest.raises((TypeError, ValueError), match=message):
        group_norm_(**(arguments | change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 5, 5)}, "x: expected channels-last memory"),
        ({"groups": 3}, "groups: expected a divisor of 4 channels, got 3"),
        ({"coarse": torch.zeros(1, 4, 2, 2)}, "coarse: expected channels-last memory"),
    ],
)
def test_kernel_refuses(change, message):
    x = torch.zeros(1, 4, 5, 5).to(**CHANNELS_LAST)
    arguments = {"x": x, "groups": 2, "weight": torch.ones(4), "bias": torch.ones(4)}
    with pytest.raises(RuntimeError, match=message):
        group_norm_(**(arguments | change))
