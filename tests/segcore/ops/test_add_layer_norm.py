import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import operator_checks as checks
from segcore.ops import add_layer_norm_, add_layer_norm_reference

needs_binary = checks.needs_binary("add_layer_norm_")
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 3e-3,
    torch.bfloat16: 2e-2,
}


def make_arguments(shape, dtype=torch.float32):
    """x, added, weight, bias and out, which holds NaN."""
    generator = torch.Generator().manual_seed(0)
    x, added = torch.randn(2, *shape, generator=generator).to(dtype)
    weight, bias = torch.randn(2, shape[-1], generator=generator).to(dtype)
    return x + 3, added, weight, bias, torch.full_like(x, torch.nan)


@pytest.mark.parametrize("operator", [add_layer_norm_, add_layer_norm_reference])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("with_added", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 96), (7, 37), (5,), (1, 3, 1), (0, 4), (600, 256)])
def test_equals_steps_of_pytorch(shape, with_added, dtype, operator):
    x, added, weight, bias, out = make_arguments(shape, dtype)
    added = added if with_added else None
    total = x + added if with_added else x.clone()
    expected = F.layer_norm(total.double(), shape[-1:], weight.double(), bias.double(), 1e-3)
    assert operator(x, added, weight, bias, 1e-3, out=out) is None
    assert torch.equal(x, total)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operator", [add_layer_norm_, add_layer_norm_reference])
def test_result_in_the_memory_of_the_sum(operator):
    x, added, weight, bias, _ = make_arguments((9, 40))
    expected = F.layer_norm(x + added, (40,), weight, bias)
    operator(x, added, weight, bias, out=x)
    torch.testing.assert_close(x, expected)


@needs_binary
def test_values_far_from_zero():
    x, added, weight, bias, out = make_arguments((4, 256))
    expected = F.layer_norm((x + 1000 + added).double(), (256,), weight.double(), bias.double())
    add_layer_norm_(x + 1000, added, weight, bias, out=out)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=3e-4)


@needs_binary
def test_rounds_to_bfloat16_as_pytorch():
    values = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.3e38, torch.inf, -torch.inf, torch.nan, 1e-40]
    x, added = (torch.tensor([values, values]).bfloat16() * scale for scale in (1, 2**-8))
    expected = x + added
    add_layer_norm_(x, added, *torch.ones(2, 8).bfloat16(), out=torch.empty_like(x))
    torch.testing.assert_close(x, expected, rtol=0, atol=0, equal_nan=True)


@needs_binary
def test_follows_rules_of_operators():
    operator = torch.ops.segcore.add_layer_norm_.default
    x, added, weight, bias, out = make_arguments((3, 20))
    opcheck(operator, (x, added, weight, bias, 1e-5, out.zero_()))
    opcheck(operator, (x, None, weight, bias, 1e-5, out))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(3)}, r"weight: expected shape \(4,\), got \(3,\)"),
        ({"bias": torch.zeros(4).double()}, "bias: expected the type of x"),
        ({"added": torch.zeros(4)}, r"added: expected shape \(2, 4\), got \(4,\)"),
        ({"out": torch.zeros(2, 5)}, r"out: expected shape \(2, 4\), got \(2, 5\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    x = torch.zeros(2, 4)
    arguments = {"x": x, "added": x, "weight": x[0], "bias": x[0], "out": torch.zeros(2, 4)}
    with pytest.raises((TypeError, ValueError), match=message):
        add_layer_norm_(**(arguments | change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 2).T}, "x: expected contiguous memory"),
        ({"added": torch.zeros(4, 2).T}, "added: expected contiguous memory"),
        ({"out": torch.zeros(4, 2).T}, "out: expected contiguous memory"),
    ],
)
def test_kernel_refuses(change, message):
    x = torch.zeros(2, 4)
    arguments = {"x": x, "added": x, "weight": x[0], "bias": x[0], "out": torch.zeros(2, 4)}
    with pytest.raises(RuntimeError, match=message):
        add_layer_norm_(**(arguments | change))
