from functools import partial

import pytest
import torch
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import cluster_attention_inputs as make_inputs
from segcore.ops import (
    ClusterNeighborhood,
    balanced_clusters,
    cluster_attention,
    cluster_attention_reference,
    knn,
)

DIFFERENTIABLE = ("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v")
needs_binary = checks.needs_binary("cluster_attention")
devices = checks.devices("cluster_attention")


def real_clustering(height, width, cluster_size, clusters_per_token, keep=1.0):
    """Positions in the order of their clusters, and the neighborhood of a stage."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()
    tokens = int(len(grid) * keep)
    images = [
        grid[torch.randperm(len(grid), generator=generator)[:tokens].sort()[0]] for _ in range(2)
    ]
    positions = torch.stack(images)
    order, centers = balanced_clusters(positions, cluster_size, (height, width))
    positions = positions.gather(1, order[..., None].expand(-1, -1, 2))
    clusters = knn(positions, centers, min(clusters_per_token, centers.shape[1]))
    return positions, ClusterNeighborhood(clusters, cluster_size)


def run_with_gradients(arguments):
    return checks.run_with_gradients(cluster_attention, arguments, DIFFERENTIABLE)


def assert_same(arguments, **tolerances):
    checks.assert_same(
        cluster_attention, cluster_attention_reference, arguments, DIFFERENTIABLE, **tolerances
    )


def test_by_hand():
    """Two tokens, 3 apart along x and 4 along y, each a cluster of its own that sees the other."""
    neighborhood = ClusterNeighborhood(torch.tensor([[[1], [0]]]), 1)
    arguments = {
        "q": torch.tensor([2.0, 1.0]).view(1, 2, 1, 1),
        "k": torch.tensor([3.0, 5.0]).view(1, 2, 1, 1),
        "v": torch.tensor([10.0, 20.0]).view(1, 2, 1, 1),
        "positions": torch.tensor([[[1.0, 1.0], [4.0, 5.0]]]),
        "neighborhood": neighborhood,
        "pos_weight": torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]),
        "pos_bias": torch.tensor([-2.0]),
        "blank_k": torch.tensor([1.5]),
        "blank_v": torch.tensor([-1.0]),
    }
    bias = torch.tensor([0.1 * 3 + 0.2 * 4 + 0.4 * 0.8 + 0.5 * 0.6]) * torch.tensor([1, -1])
    logits = torch.tensor([2.0 * 5, 1.0 * 3]) + bias + 0.3 * 5 - 2
    weights = torch.stack([logits, torch.tensor([2 * 1.5, 1.5])]).softmax(0)
    expected = weights[0] * torch.tensor([20.0, 10.0]) - weights[1]
    for operator in (cluster_attention, cluster_attention_reference):
        torch.testing.assert_close(operator(**arguments).flatten(), expected)


@devices
@pytest.mark.parametrize("channels", [1, 2, 8, 24, 32, 33, 48, 71])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_twin(channels, dtype, device):
    assert_same(
        make_inputs(channels=channels, dtype=dtype, device=device),
        **({"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}),
    )


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"cluster_size": 1, "clusters_per_token": 5},
        {"cluster_size": 1, "clusters_per_token": 1, "tokens": 1, "batch": 1, "heads": 1},
        {"cluster_size": 3, "clusters_per_token": 7},
        {"cluster_size": 8, "clusters_per_token": 6, "tokens": 200},
        {"cluster_size": 24, "clusters_per_token": 2, "tokens": 75},
        {"cluster_size": 24, "clusters_per_token": 6, "tokens": 144},
        {"cluster_size": 33, "clusters_per_token": 2},
        {"cluster_size": 100, "clusters_per_token": 1, "channels": 257, "heads": 1},
        {"tokens": 500, "clusters_per_token": 1},
        {"heads": 17, "tokens": 9, "channels": 3},
    ],
    ids=str,
)
def test_matches_twin_at_odd_sizes(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
@pytest.mark.parametrize(
    ("height", "width", "cluster_size", "clusters_per_token", "keep"),
    [(16, 24, 8, 6, 1.0), (14, 14, 8, 6, 1.0), (33, 20, 24, 6, 0.5), (9, 9, 8, 99, 1.0)],
    ids=["full", "part-filled", "size 24", "all clusters"],
)
def test_matches_twin_on_real_clusterings(
    height, width, cluster_size, clusters_per_token, keep, device
):
    positions, neighborhood = real_clustering(height, width, cluster_size, clusters_per_token, keep)
    tokens = positions.shape[1]
    arguments = make_inputs(
        tokens=tokens, positions=positions, neighborhood=neighborhood, device=device
    )
    assert_same(arguments)


@devices
@pytest.mark.parametrize("tokens", [1, 7, 49, 300])
def test_global_attention_sees_every_token(tokens, device):
    everything = ClusterNeighborhood.global_attention(2, tokens)
    arguments = make_inputs(tokens=tokens, device=device, neighborhood=everything)
    assert_same(arguments)
    arguments["pos_weight"].zero_(), arguments["pos_bias"].zero_()
    blanks = [
        arguments[name].view(1, 1, 3, 8).expand(2, 1, 3, 8) for name in ("blank_k", "blank_v")
    ]
    q, k, v = (arguments[name] for name in ("q", "k", "v"))
    k, v = (torch.cat(pair, dim=1) for pair in zip((k, v), blanks, strict=True))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(1, 2) for tensor in (q, k, v))
    )
    torch.testing.assert_close(cluster_attention(**arguments), expected.transpose(1, 2).flatten(2))


@devices
def test_all_clusters_are_global_attention(device):
    arguments = make_inputs(clusters_per_token=5, device=device)
    everything = ClusterNeighborhood.global_attention(2, 37, device=device)
    torch.testing.assert_close(
        cluster_attention(**arguments),
        cluster_attention(**{**arguments, "neighborhood": everything}),
    )


@devices
@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype, device):
    checks.assert_half_error_at_most_twice_pytorchs(
        cluster_attention,
        cluster_attention_reference,
        make_inputs(channels=32, tokens=100, dtype=dtype, device=device),
        DIFFERENTIABLE,
    )


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 0},
        {"tokens": 0},
        {"heads": 0},
        {"channels": 0},
        {"clusters_per_token": 0},
    ],
    ids=str,
)
def test_empty(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
def test_no_cluster_gives_the_blank_value(device):
    arguments = make_inputs(clusters_per_token=0, device=device)
    output = cluster_attention(**arguments)
    torch.testing.assert_close(output, arguments["blank_v"].expand(2, 37, -1))


@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_logits(dtype, device):
    """The largest logit decides; no exponential overflows, and those of the others vanish."""
    arguments = make_inputs(dtype=dtype, device=device)
    arguments["q"] *= 1e4
    for result in run_with_gradients(arguments).values():
        assert result.isfinite().all()
    expected = cluster_attention_reference(**arguments)
    rounding = 1e-2 if dtype == torch.float32 else 1e-8  # of logits around 1e5
    torch.testing.assert_close(cluster_attention(**arguments), expected, rtol=0, atol=rounding)


@devices
def test_tokens_outside_the_neighborhood_do_not_leak(device):
    """NaN in tokens that nobody sees stays there."""
    neighborhood = ClusterNeighborhood(torch.zeros(1, 20, 1, dtype=torch.int64), 8)
    arguments = make_inputs(batch=1, tokens=20, neighborhood=neighborhood, device=device)
    arguments["k"] = arguments["k"].clone()
    arguments["v"] = arguments["v"].clone()
    arguments["k"][:, 8:] = torch.nan
    arguments["v"][:, 8:] = torch.nan
    results = run_with_gradients(arguments)
    assert results["output"].isfinite().all() and results["q"].isfinite().all()


@devices
def test_nan_is_not_hidden(device):
    arguments = make_inputs(device=device)
    arguments["q"][0, 3, 1] = torch.nan
    output = cluster_attention(**arguments).view(2, 37, 3, 8)
    assert output[0, 3, 1].isnan().all()
    assert output.isnan().sum() == 8


@devices
def test_scale(device):
    arguments = make_inputs(device=device)
    scaled = {**arguments, "q": arguments["q"] * 8**-0.5}
    expected = cluster_attention(**arguments)
    actual = cluster_attention(**{**scaled, "blank_k": arguments["blank_k"]}, scale=1.0)
    torch.testing.assert_close(actual, expected)
    operators = (partial(op, scale=0.7) for op in (cluster_attention, cluster_attention_reference))
    checks.assert_same(*operators, arguments, DIFFERENTIABLE)


@devices
def test_gradcheck(device):
    arguments = make_inputs(
        batch=1, tokens=7, heads=2, channels=3, cluster_size=3, clusters_per_token=2, device=device
    )
    checks.assert_gradcheck(cluster_attention, arguments, DIFFERENTIABLE)


@devices
def test_positions_get_no_gradient(device):
    arguments = make_inputs(device=device)
    positions = arguments["positions"].requires_grad_()
    q = arguments["q"].requires_grad_()
    for operator in (cluster_attention, cluster_attention_reference):
        output = operator(**arguments)
        assert torch.autograd.grad(output.sum(), (q, positions), allow_unused=True)[1] is None


@needs_binary
def test_second_derivative_is_refused():
    checks.assert_second_derivative_is_refused(cluster_attention, make_inputs(), "q")


@needs_binary
@devices
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [{}, {"tokens": 0}, {"channels": 3, "tokens": 5}], ids=str)
def test_opcheck(sizes, dtype, requires_grad, device):
    arguments = make_inputs(dtype=dtype, device=device, **sizes)
    neighborhood = arguments.pop("neighborhood")
    q, k, v, positions, *parameters = arguments.values()
    tensors = [t.detach().requires_grad_(requires_grad) for t in (q, k, v, *parameters)]
    before = (*tensors[:3], positions, neighborhood.clusters, neighborhood.cluster_size)
    after = (*tensors[3:], 0.5, *neighborhood.inverse_lists())
    opcheck(torch.ops.segcore.cluster_attention.default, (*before, *after))
    grad_output = torch.randn(*q.shape[:2], q.shape[2] * q.shape[3]).to(q)
    arguments = (grad_output, *before, *after)
    opcheck(
        torch.ops.segcore.cluster_attention_backward.default,
        tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    arguments = make_inputs(dtype=torch.float32)
    checks.assert_compiles(cluster_attention, arguments, DIFFERENTIABLE, dynamic)


@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_autocast_keeps_the_type_of_q(dtype):
    arguments = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        assert cluster_attention(**arguments).dtype == torch.float32
        half = {**arguments, **{name: arguments[name].to(dtype) for name in ("q", "k", "v")}}
        output = cluster_attention(**half)
    assert output.dtype == dtype
    assert torch.equal(output, cluster_attention(**half))


def test_gradients_have_the_types_of_the_arguments():
    arguments = make_inputs(dtype=torch.bfloat16)
    arguments["pos_weight"] = arguments["pos_weight"].double()
    arguments["blank_k"] = arguments["blank_k"].half()
    results = run_with_gradients(arguments)
    for name in DIFFERENTIABLE:
        assert results[name].dtype == arguments[name].dtype, name


def test_strided_arguments():
    arguments = make_inputs()
    expected = run_with_gradients(arguments)
    strided = {
        name: arguments[name].transpose(1, 3).contiguous().transpose(1, 3)
        for name in ("q", "k", "v")
    }
    assert not strided["q"].is_contiguous()
    actual = run_with_gradients({**arguments, **strided})
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_expanded_upstream_gradient():
    arguments = make_inputs()
    q = arguments["q"].requires_grad_()
    grads = [
        torch.autograd.grad(operator(**arguments).sum(), q)[0]
        for operator in (cluster_attention, cluster_attention_reference)
    ]
    torch.testing.assert_close(*grads)


@needs_binary
@devices
@pytest.mark.parametrize("sizes", [{}, {"batch": 1, "clusters_per_token": 1}], ids=str)
def test_same_bits_in_every_run_with_any_number_of_threads(sizes, device):
    arguments = make_inputs(tokens=1001, channels=33, dtype=torch.float32, device=device, **sizes)
    checks.assert_independent_of_threads(cluster_attention, arguments, DIFFERENTIABLE)


@needs_binary
def test_kernels_refuse_clusters_that_do_not_exist():
    for number in (-1, 5):
        arguments = make_inputs()
        arguments["neighborhood"].clusters[1, 7, 2] = number
        with pytest.raises(RuntimeError, match=f"clusters: expected .* 0 to 4, got {number}"):
            cluster_attention(**arguments)


@pytest.mark.parametrize("operator", [cluster_attention, cluster_attention_reference])
@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("q", lambda t: t[0], ValueError, r"q: expected shape \(B, N, h, c\)"),
        ("q", lambda t: t.numpy(), TypeError, "q: expected a tensor, got ndarray"),
        ("k", lambda t: t[:, 1:], ValueError, r"k: expected shape \(2, 37, 3, 8\), got \(2, 36"),
        ("v", lambda t: t.float(), TypeError, "v: expected the type of q, torch.float64"),
        ("v", lambda t: t.long(), TypeError, "v: expected one of float64"),
        ("positions", lambda t: t[..., :1], ValueError, r"positions: .* \(2, 37, 2\)"),
        ("neighborhood", lambda n: n.clusters, TypeError, "expected a ClusterNeighborhood"),
        (
            "neighborhood",
            lambda n: ClusterNeighborhood(n.clusters[:, 1:], 8),
            ValueError,
            r"neighborhood: expected clusters of shape \(2, 37, R\), got \(2, 36, 3\)",
        ),
        ("pos_weight", lambda t: t.T, ValueError, r"pos_weight: expected shape \(3, 5\)"),
        ("pos_bias", lambda t: t[1:], ValueError, r"pos_bias: expected shape \(3,\)"),
        ("blank_k", lambda t: t[1:], ValueError, r"blank_k: expected shape \(24,\)"),
        ("blank_v", lambda t: t.to("meta"), ValueError, "blank_v: expected the device of q"),
    ],
)
def test_clear_errors(operator, name, change, error, message):
    arguments = make_inputs()
    arguments[name] = change(arguments[name])
    with pytest.raises(error, match=message):
        operator(**arguments)
