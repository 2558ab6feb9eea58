import pytest
import torch

import operator_checks as checks
from operator_inputs import point_deform_attn_inputs as make_inputs
from segcore.ops import (
    inverse_distance_weights,
    point_deform_attn,
    point_deform_attn_reference,
)

DIFFERENTIABLE = ("values", "locations", "attention", "power")
needs_binary = checks.needs_binary("point_deform_attn")
devices = checks.devices("point_deform_attn")


def assert_same(arguments, **tolerances):
    checks.assert_same(
        point_deform_attn, point_deform_attn_reference, arguments, DIFFERENTIABLE, **tolerances
    )


def tolerances_of(dtype):
    return {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {}


@devices
@pytest.mark.parametrize("channels", [1, 7, 8, 32, 48])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_twin(channels, dtype, device):
    assert_same(make_inputs(channels=channels, dtype=dtype, device=device), **tolerances_of(dtype))


@devices
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 5.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_powers(power, dtype, device):
    assert_same(make_inputs(power=power, dtype=dtype, device=device), **tolerances_of(dtype))


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "level_sizes": (1,), "heads": 1, "queries": 1, "points": 1, "k": 1},
        {"level_sizes": (5,), "k": 7, "points": 3, "canvas": (1, 40)},
        {"spread": 100.0},
        {"queries": 0},
        {"batch": 0},
        {"heads": 0},
        {"channels": 0},
        {"points": 0},
        {"level_sizes": ()},
    ],
    ids=str,
)
def test_matches_twin_at_odd_and_empty_sizes(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_locations_on_tokens_and_between_cells(dtype, device):
    """On a token nothing flows to location and power; halves are rounded to the even cell."""
    arguments = make_inputs(dtype=dtype, device=device)
    locations = arguments["locations"]
    locations[:, ::2] = locations[:, ::2].round()
    locations[:, 1::2] = locations[:, 1::2].floor() + 0.5
    assert_same(arguments, **tolerances_of(dtype))
    results = checks.run_with_gradients(point_deform_attn, arguments, DIFFERENTIABLE)
    assert all(tensor.isfinite().all() for tensor in results.values())


@pytest.mark.parametrize("operator", [point_deform_attn, point_deform_attn_reference])
def test_by_hand(operator):
    """Tokens at x = 0 and x = 3 of a row of 4, read at x = 1: weights 4 to 1 at power 1."""
    arguments = {
        "values": torch.tensor([10.0, 20.0]).view(1, 2, 1, 1),
        "positions": torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]),
        "neighbours": torch.tensor([0, 1]).expand(1, 1, 4, 2),
        "canvas": (1, 4),
        "locations": torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 1, 2),
        "attention": torch.full((1, 1, 1, 1, 1), 2.0),
    }
    for power, expected in ((1.0, 24.0), (torch.tensor([2.0]), 360 / 17)):
        output = operator(**arguments, power=power)
        torch.testing.assert_close(output, torch.full((1, 1, 1), expected))


@devices
@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype, device):
    checks.assert_half_error_at_most_twice_pytorchs(
        point_deform_attn,
        point_deform_attn_reference,
        make_inputs(dtype=dtype, device=device),
        DIFFERENTIABLE,
    )


@devices
def test_gradcheck(device):
    arguments = make_inputs(channels=2, queries=2, heads=2, points=2, device=device)
    # The neighbours change where a location is between two cells.
    locations = arguments["locations"]
    arguments["locations"] = locations.round() + (locations - locations.round()).clamp(-0.4, 0.4)
    checks.assert_gradcheck(point_deform_attn, arguments, DIFFERENTIABLE)


@devices
@pytest.mark.parametrize("place", [torch.nan, torch.inf, 1e30])
def test_wild_locations_stay_in_the_tables(place, device):
    """Whatever they give, they leave the other queries alone."""
    arguments = make_inputs(device=device)
    expected = point_deform_attn(**arguments)
    arguments["locations"][:, 0] = place
    actual = point_deform_attn(**arguments)
    assert torch.equal(actual[:, 1:], expected[:, 1:])


@needs_binary
def test_nan_locations_show():
    arguments = make_inputs(dtype=torch.float32)
    arguments["locations"][:, 0] = torch.nan
    assert point_deform_attn(**arguments)[:, 0].isnan().all()


@needs_binary
def test_result_does_not_depend_on_threads():
    arguments = make_inputs(queries=500, channels=33, dtype=torch.float32)
    checks.assert_independent_of_threads(point_deform_attn, arguments, DIFFERENTIABLE)


@needs_binary
@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [{}, {"queries": 0}], ids=str)
def test_opcheck(sizes, dtype, device):
    arguments = make_inputs(dtype=dtype, device=device, **sizes)
    checks.assert_registered_well("point_deform_attn", arguments, DIFFERENTIABLE)


@needs_binary
def test_second_derivative_is_refused():
    checks.assert_second_derivative_is_refused(point_deform_attn, make_inputs(), "power")


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    arguments = make_inputs(dtype=torch.float32)
    checks.assert_compiles(point_deform_attn, arguments, DIFFERENTIABLE, dynamic)


def test_types_and_strides():
    arguments = make_inputs()
    expected = point_deform_attn(**arguments)
    changed = arguments | {
        "values": arguments["values"].transpose(1, 3).contiguous().transpose(1, 3),
        "neighbours": arguments["neighbours"].int(),
        "positions": arguments["positions"].half(),
        "locations": arguments["locations"].transpose(1, 2).contiguous().transpose(1, 2),
    }
    torch.testing.assert_close(point_deform_attn(**changed), expected)


@pytest.mark.parametrize(
    "operator", [point_deform_attn, point_deform_attn_reference], ids=["public", "twin"]
)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": lambda v: v[0]}, ValueError, r"values: expected shape \(B, N, M, D\)"),
        ({"values": lambda v: v.int()}, TypeError, "values: expected one of float64"),
        ({"positions": lambda p: p[:, 1:]}, ValueError, "positions: expected shape"),
        ({"neighbours": lambda n: n.float()}, TypeError, "neighbours: expected int64 or int32"),
        ({"neighbours": lambda n: n[:, :, 1:]}, ValueError, "neighbours: expected shape"),
        ({"canvas": lambda c: (9, 12)}, ValueError, "neighbours: expected shape"),
        ({"canvas": lambda c: (9, -11)}, ValueError, "canvas: expected sides of at least 1"),
        ({"locations": lambda x: x[:, :, :, 1:]}, ValueError, "locations: expected shape"),
        ({"attention": lambda a: a[:, 1:]}, ValueError, "attention: expected shape"),
        ({"attention": lambda a: a.to("meta")}, ValueError, "attention: expected the device"),
        ({"power": lambda p: p.expand(2)}, ValueError, "power: expected one element"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": lambda n: n + 1}, "neighbours: expected indices from -1 to 62, got 63"),
        ({"neighbours": lambda n: n - 1}, "neighbours: expected indices from -1 to 62, got -2"),
        ({"locations": lambda x: x.float()}, "locations: expected Double, got Float"),
        ({"canvas": lambda c: (9,)}, "canvas: expected"),
    ],
)
def test_the_compiled_operator_guards_itself(change, message):
    arguments = checks.changed(make_inputs(), change)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.point_deform_attn(*arguments.values())


def test_inverse_distance_weights():
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    neighbours = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    neighbours = neighbours.expand(3, 3, 2)
    weights = inverse_distance_weights(queries, neighbours, 3.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 0.0, 0.0]).double())
    torch.testing.assert_close(weights[1], torch.tensor([8.0, 8.0, 1.0]).double() / 17)
    valid = torch.tensor([False, True, True])
    weights = inverse_distance_weights(queries, neighbours, 1.0, valid)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.2, 0.8]).double())


def test_gradients_of_inverse_distance_weights_at_a_token():
    queries = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    power = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    neighbours = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    weights = inverse_distance_weights(queries, neighbours, power)
    grads = torch.autograd.grad(weights[0, 1], [queries, power])
    assert all(grad.isfinite().all() and grad.abs().max() < 1e-9 for grad in grads)
