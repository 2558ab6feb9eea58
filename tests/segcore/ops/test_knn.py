import pytest
import torch
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import knn_inputs
from segcore.ops import knn, knn_reference

needs_binary = checks.needs_binary("knn")
devices = checks.devices("knn")


@devices
@pytest.mark.parametrize("k", [1, 2, 6, 9, 33])
@pytest.mark.parametrize(
    "kind", ["scattered", "grid", "flat", "one point", "dense corner", "far away", "small offsets"]
)
def test_matches_twin(kind, k, device):
    queries, points = (tensor.to(device) for tensor in knn_inputs(kind))
    assert torch.equal(knn(queries, points, k), knn_reference(queries, points, k))


@devices
@pytest.mark.parametrize("points", [1, 2, 7, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_matches_twin_at_many_sizes(points, seed, device):
    queries, positions = knn_inputs("grid" if seed % 2 else "scattered", 1, 500, points, seed)
    queries, positions = queries.to(device), positions.to(device)
    k = min(points, 1 + 3 * seed)
    assert torch.equal(knn(queries, positions, k), knn_reference(queries, positions, k))


@pytest.mark.parametrize("operator", [knn, knn_reference])
def test_by_hand(operator):
    """Distances 1, 2, 1, 0 and 5: of equally near points, the lower index first."""
    points = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.0, 1.0], [0.0, 0.0], [3.0, 4.0]])
    nearest = operator(torch.zeros(1, 1, 2), points[None], 5)
    assert nearest.tolist() == [[[3, 0, 2, 1, 4]]] and nearest.dtype == torch.int64


@pytest.mark.parametrize("operator", [knn, knn_reference])
def test_squares_that_a_root_would_make_equal(operator):
    """The nearer one is second; two clusters of a 96 x 128 grid as a token sees them."""
    far, near = torch.tensor([1091087019, 1091087018], dtype=torch.int32).view(torch.float32)
    points = torch.tensor([[0.25, -far], [0.25, near]])
    assert points.square().sum(-1).double().sqrt().float().unique().numel() == 1
    assert operator(torch.zeros(1, 1, 2), points[None], 2).tolist() == [[[1, 0]]]


@devices
@pytest.mark.parametrize("place", [torch.nan, torch.inf, -torch.inf])
def test_indices_stay_in_range_whatever_the_positions(place, device):
    queries, points = (tensor.to(device) for tensor in knn_inputs("scattered"))
    queries[:, ::3, 0] = place
    points[0, ::4, 1] = place
    points[1] = place
    nearest = knn(queries, points, 7)
    assert ((nearest >= 0) & (nearest < points.shape[1])).all()


@devices
@pytest.mark.parametrize("sizes", [{"queries": 0}, {"batch": 0}], ids=str)
def test_empty(sizes, device):
    queries, points = (tensor.to(device) for tensor in knn_inputs("scattered", **sizes))
    assert knn(queries, points, 3).shape == (*queries.shape[:2], 3)


def test_other_types_are_converted_and_strides_followed():
    queries, points = knn_inputs("grid")
    expected = knn(queries, points, 4)
    assert torch.equal(knn(queries.double(), points.half(), 4), expected)
    strided = queries.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(knn(strided, points.flip(-1).flip(-1), 4), expected)
    assert not knn(queries.requires_grad_(), points, 4).requires_grad


@needs_binary
def test_opcheck():
    opcheck(torch.ops.segcore.knn.default, (*knn_inputs("scattered"), 3))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    compiled = torch.compile(knn, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    queries, points = knn_inputs("grid")
    assert torch.equal(compiled(queries, points, 5), knn(queries, points, 5))


@pytest.mark.parametrize("operator", [knn, knn_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": lambda q: q.long()}, TypeError, "queries: expected one of float64"),
        ({"queries": lambda q: q[0]}, ValueError, r"queries: expected shape \(B, \*, 2\)"),
        ({"points": lambda p: p[..., :1]}, ValueError, "points: expected shape"),
        ({"points": lambda p: p[:1]}, ValueError, "points: expected shape"),
        ({"points": lambda p: p.to("meta")}, ValueError, "points: expected the device of queries"),
        ({"points": lambda p: p[:, :0]}, ValueError, "k: expected 1 up to 0"),
        ({"k": lambda k: 0}, ValueError, "k: expected 1 up to 90, .* got 0"),
        ({"k": lambda k: 91}, ValueError, "k: expected 1 up to 90, .* got 91"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    queries, points = knn_inputs("scattered")
    arguments = {"queries": queries, "points": points, "k": 3}
    arguments |= {name: edit(arguments[name]) for name, edit in change.items()}
    with pytest.raises(error, match=message):
        operator(**arguments)


@needs_binary
def test_the_compiled_operator_guards_itself():
    queries, points = knn_inputs("scattered")
    with pytest.raises(RuntimeError, match="queries: expected Float, got Double"):
        torch.ops.segcore.knn(queries.double(), points, 3)
    with pytest.raises(RuntimeError, match="k: expected 1 up to 90"):
        torch.ops.segcore.knn(queries, points, 91)
