import pytest
import torch

import operator_checks as checks
from operator_inputs import point_gather_inputs as make_inputs
from segcore.ops import point_gather, point_gather_reference
from segcore.ops.gather_reference import weighted_gather

DIFFERENTIABLE = ("features", "weights")
needs_binary = checks.needs_binary("point_gather")
devices = checks.devices("point_gather")


def assert_same(arguments, **tolerances):
    checks.assert_same(
        point_gather, point_gather_reference, arguments, DIFFERENTIABLE, **tolerances
    )


@devices
@pytest.mark.parametrize("channels", [1, 7, 8, 32, 47, 256])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_twin(channels, dtype, device):
    assert_same(make_inputs(channels=channels, dtype=dtype, device=device))


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "tokens": 1, "queries": 1, "k": 1},
        {"batch": 3, "tokens": 500, "queries": 13, "k": 9},
        {"queries": 0},
        {"batch": 0},
        {"k": 0},
        {"channels": 0},
    ],
    ids=str,
)
def test_matches_twin_at_odd_and_empty_sizes(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype, device):
    checks.assert_half_error_at_most_twice_pytorchs(
        point_gather,
        point_gather_reference,
        make_inputs(dtype=dtype, device=device),
        DIFFERENTIABLE,
    )


def test_equals_the_official_operator():
    arguments = make_inputs()
    expected = weighted_gather(*(arguments[name] for name in ("indices", "weights", "features")))
    torch.testing.assert_close(point_gather(**arguments), expected)


@devices
def test_gradcheck(device):
    arguments = make_inputs(channels=3, device=device)
    checks.assert_gradcheck(point_gather, arguments, DIFFERENTIABLE)


@needs_binary
def test_result_does_not_depend_on_threads():
    arguments = make_inputs(queries=3000, channels=33, dtype=torch.float32)
    checks.assert_independent_of_threads(point_gather, arguments, DIFFERENTIABLE)


@needs_binary
@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [{}, {"queries": 0}], ids=str)
def test_opcheck(sizes, dtype, device):
    arguments = make_inputs(dtype=dtype, device=device, **sizes)
    checks.assert_registered_well("point_gather", arguments, DIFFERENTIABLE)


@needs_binary
def test_second_derivative_is_refused():
    checks.assert_second_derivative_is_refused(point_gather, make_inputs(), "weights")


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    arguments = make_inputs(dtype=torch.float32)
    checks.assert_compiles(point_gather, arguments, DIFFERENTIABLE, dynamic)


def test_types_and_strides():
    arguments = make_inputs()
    expected = point_gather(**arguments)
    changed = {
        "features": arguments["features"].transpose(1, 2).contiguous().transpose(1, 2),
        "indices": arguments["indices"].int(),
        "weights": arguments["weights"].transpose(0, 2).contiguous().transpose(0, 2),
    }
    torch.testing.assert_close(point_gather(**changed), expected)
    bfloat16 = make_inputs(dtype=torch.bfloat16)
    grads = checks.run_with_gradients(point_gather, bfloat16, DIFFERENTIABLE)
    assert grads["features"].dtype == torch.bfloat16 and grads["weights"].dtype == torch.float32


@pytest.mark.parametrize("operator", [point_gather, point_gather_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": lambda f: f[0]}, ValueError, r"features: expected shape \(B, N, C\)"),
        ({"features": lambda f: f.int()}, TypeError, "features: expected one of float64"),
        ({"indices": lambda i: i.float()}, TypeError, "indices: expected int64 or int32"),
        ({"indices": lambda i: i[:1]}, ValueError, "indices: expected shape"),
        ({"weights": lambda w: w[:, :3]}, ValueError, "weights: expected shape"),
        ({"weights": lambda w: w.to("meta")}, ValueError, "weights: expected the device"),
        ({"indices": lambda i: i + 5}, RuntimeError, "ind"),
        ({"indices": lambda i: i - 1}, RuntimeError, "ind"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": lambda i: i + 5}, "indices: expected indices from 0 to 10, got 15"),
        ({"weights": lambda w: w.float()}, "weights: expected Double, got Float"),
        ({"weights": lambda w: w[:1]}, "weights: expected size 2 in dimension 0, got 1"),
        ({"indices": lambda i: i.int()}, "indices: expected Long, got Int"),
    ],
)
def test_the_compiled_operator_guards_itself(change, message):
    arguments = checks.changed(make_inputs(), change)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.point_gather(*arguments.values())
