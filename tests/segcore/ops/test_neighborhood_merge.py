import pytest
import torch

import operator_checks as checks
from operator_inputs import neighborhood_merge_inputs as make_inputs
from segcore.ops import (
    ClusterNeighbourhood,
    balanced_clusters,
    knn,
    neighborhood_merge,
    neighborhood_merge_reference,
)

PARAMETERS = ("linear_weight", "linear_bias", "norm_weight", "norm_bias")
DIFFERENTIABLE = ("features", "importance", *PARAMETERS)
needs_binary = checks.needs_binary("neighborhood_merge")
devices = checks.devices("neighborhood_merge")


def assert_same(arguments, **tolerances):
    checks.assert_same(
        neighborhood_merge, neighborhood_merge_reference, arguments, DIFFERENTIABLE, **tolerances
    )


@devices
@pytest.mark.parametrize("channels", [1, 5, 8, 16, 32, 59])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("importance", [False, True])
def test_matches_twin(channels, dtype, mask, importance, device):
    tolerances = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    assert_same(
        make_inputs(
            channels=channels, dtype=dtype, mask=mask, importance=importance, device=device
        ),
        **tolerances,
    )


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "tokens": 1, "queries": 1, "size": 1, "channels": 1},
        {"batch": 3, "tokens": 300, "queries": 200, "size": 48},
        {"size": 16},
        {"size": 17},
        {"queries": 0},
        {"batch": 0},
        {"size": 0},
        {"channels": 0},
    ],
    ids=str,
)
def test_matches_twin_at_odd_and_empty_sizes(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_twin_on_a_real_clustering(dtype, device):
    """34 x 30 tokens in clusters of 8, the last one part-filled; a quarter of the tokens merges."""
    y, x = torch.meshgrid(torch.arange(34), torch.arange(30), indexing="ij")
    positions = torch.stack([x, y], -1).view(1, -1, 2).to(device).float()
    order, clusters = balanced_clusters(positions, 8, (34, 30))
    positions = positions[:, order[0]]
    near = ClusterNeighbourhood(knn(positions, clusters, 6), 8)
    members, valid = near.members()
    arguments = make_inputs(tokens=34 * 30, batch=1, channels=32, dtype=dtype, device=device)
    precision = arguments["positions"].dtype
    arguments |= {
        "positions": positions.to(precision),
        "centers": positions[:, ::4].to(precision),
        "members": members[:, ::4],
        "mask": valid[:, ::4],
    }
    tolerances = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    assert_same(arguments, **tolerances)


@devices
@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype, device):
    checks.assert_half_error_at_most_twice_pytorchs(
        neighborhood_merge,
        neighborhood_merge_reference,
        make_inputs(dtype=dtype, device=device),
        DIFFERENTIABLE,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gelu_over_its_whole_range(dtype):
    """The layer norm's scale and shift carry the argument of GELU from -30 to 30."""
    arguments = make_inputs(dtype=dtype, importance=False, mask=False)
    for shift in torch.linspace(-30, 30, 61).tolist():
        arguments["norm_bias"] = torch.full((4,), shift, dtype=dtype)
        assert_same(arguments, **({"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}))


@pytest.mark.parametrize("operator", [neighborhood_merge, neighborhood_merge_reference])
def test_offsets_of_the_opposite_sign(operator):
    """Mirrored positions, and negated columns of dx, dy, sine and cosine, are the same."""
    arguments = make_inputs()
    mirrored = arguments | {name: -arguments[name] for name in ("positions", "centers")}
    signs = torch.tensor([-1.0, -1.0, 1.0, -1.0, -1.0])
    mirrored["linear_weight"] = arguments["linear_weight"] * signs
    torch.testing.assert_close(operator(**mirrored), operator(**arguments))


@devices
def test_masked_members_do_not_leak(device):
    arguments = make_inputs(device=device)
    arguments["mask"] &= arguments["members"] != 5
    arguments["features"][:, 5] = torch.nan
    output = checks.run_with_gradients(neighborhood_merge, arguments, DIFFERENTIABLE)
    assert all(tensor.isfinite().all() for tensor in output.values())


@devices
def test_gradcheck(device):
    arguments = make_inputs(channels=3, device=device)
    checks.assert_gradcheck(neighborhood_merge, arguments, DIFFERENTIABLE)


@needs_binary
def test_result_does_not_depend_on_threads():
    arguments = make_inputs(queries=3000, tokens=500, dtype=torch.float32)
    checks.assert_independent_of_threads(neighborhood_merge, arguments, DIFFERENTIABLE)


@needs_binary
@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(
    "sizes", [{}, {"queries": 0}, {"mask": False, "importance": False}], ids=str
)
def test_opcheck(sizes, dtype, device):
    arguments = make_inputs(dtype=dtype, device=device, **sizes)
    checks.assert_registered_well("neighborhood_merge", arguments, DIFFERENTIABLE)


@needs_binary
def test_second_derivative_is_refused():
    checks.assert_second_derivative_is_refused(neighborhood_merge, make_inputs(), "features")


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    arguments = make_inputs(dtype=torch.float32)
    checks.assert_compiles(neighborhood_merge, arguments, DIFFERENTIABLE, dynamic)


def test_types_and_strides():
    arguments = make_inputs()
    expected = neighborhood_merge(**arguments)
    changed = arguments | {
        "features": arguments["features"].transpose(1, 2).contiguous().transpose(1, 2),
        "members": arguments["members"].int(),
        "mask": arguments["mask"].transpose(1, 2).contiguous().transpose(1, 2),
        "positions": arguments["positions"].half(),
    }
    torch.testing.assert_close(neighborhood_merge(**changed), expected)


@pytest.mark.parametrize("operator", [neighborhood_merge, neighborhood_merge_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": lambda f: f[0]}, ValueError, r"features: expected shape \(B, N, C\)"),
        ({"features": lambda f: f.int()}, TypeError, "features: expected one of float64"),
        ({"positions": lambda p: p[..., :1]}, ValueError, "positions: expected shape"),
        ({"centers": lambda c: c[:, 1:]}, ValueError, "centers: expected shape"),
        ({"members": lambda m: m.float()}, TypeError, "members: expected int64 or int32"),
        ({"mask": lambda m: m.float()}, TypeError, "mask: expected bool"),
        ({"mask": lambda m: m[..., 1:]}, ValueError, "mask: expected shape"),
        ({"importance": lambda i: i[..., None]}, ValueError, "importance: expected shape"),
        ({"linear_weight": lambda w: w.T}, ValueError, "linear_weight: expected shape"),
        ({"norm_bias": lambda b: b[:3]}, ValueError, "norm_bias: expected shape"),
        ({"norm_bias": lambda b: b.to("meta")}, ValueError, "norm_bias: expected the device"),
        ({"members": lambda m: m + 20}, RuntimeError, "ind"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": lambda m: m - 1}, "members: expected indices from 0 to 29, got -1"),
        ({"centers": lambda c: c.float()}, "centers: expected Double, got Float"),
        ({"mask": lambda m: m.int()}, "mask: expected Bool"),
        ({"importance": lambda i: i[:1]}, "importance: expected size 2 in dimension 0, got 1"),
    ],
)
def test_the_compiled_operator_guards_itself(change, message):
    arguments = checks.changed(make_inputs(), change)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.neighborhood_merge(*arguments.values())
