import pytest
import torch
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import canvas_grid, tokens_on_canvas
from segcore.ops import balanced_clusters, balanced_clusters_reference

needs_binary = checks.needs_binary("balanced_clusters")
devices = checks.devices("balanced_clusters")
operators = pytest.mark.parametrize(
    "operator", [balanced_clusters, balanced_clusters_reference], ids=["public", "twin"]
)


def assert_same(positions, *arguments, **options):
    actual = balanced_clusters(positions, *arguments, **options)
    expected = balanced_clusters_reference(positions, *arguments, **options)
    assert torch.equal(actual[0], expected[0]) and actual[0].dtype == torch.int64
    assert torch.equal(actual[1], expected[1]) and actual[1].dtype == torch.float32


@devices
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("cluster_size", [1, 8, 24])
@pytest.mark.parametrize(
    ("canvas", "count"), [((31, 45), 700), ((64, 64), 4096), ((7, 90), 100), ((50, 3), 51)]
)
def test_matches_twin(canvas, count, cluster_size, per_image, device):
    positions = tokens_on_canvas(*canvas, count).to(device)
    assert_same(positions, cluster_size, canvas, per_image=per_image)


@devices
@pytest.mark.parametrize("seed", range(8))
def test_matches_twin_off_the_grid_and_outside_the_canvas(seed, device):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(2, 150, 2, generator=generator) * 20 + 15
    assert_same(positions.to(device), 1 + seed, (20 + seed, 40))


@operators
@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(1, 1, 1), (1, 5, 5), (2, 2, 3), (1, 4000, 400), (3000, 2, 100), (4, 4, 9), (3, 9, 17)],
)
def test_small_and_narrow_canvases(operator, height, width, count):
    """One patch, two patches, and aspect ratios that round to no row at all."""
    positions = tokens_on_canvas(height, width, count)
    order, centers = operator(positions, 8, (height, width))
    assert torch.equal(order.sort(-1).values, torch.arange(count).expand(2, -1))
    assert centers.shape == (2, -(-count // 8), 2) and centers.isfinite().all()
    assert_same(positions, 8, (height, width))


@operators
def test_a_single_patch_goes_by_x_then_y(operator):
    positions = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    order, centers = operator(positions[None], 8, (3, 3))
    assert order.tolist() == [[2, 4, 1, 3, 0]]
    torch.testing.assert_close(centers, positions.mean(0).view(1, 1, 2))


@operators
def test_clusters_have_their_size_and_their_mean(operator):
    positions = tokens_on_canvas(30, 40, 203)
    order, centers = operator(positions, 8, (30, 40))
    ordered = positions.gather(1, order[..., None].expand(-1, -1, 2))
    for j in range(26):
        mean = ordered[:, 8 * j : 8 * j + 8].mean(1)
        torch.testing.assert_close(centers[:, j], mean)


@operators
def test_clusters_are_compact(operator):
    """On a grid, the tokens of a cluster lie together."""
    positions = canvas_grid(32, 32)
    order, centers = operator(positions, 8, (32, 32))
    ordered = positions.gather(1, order[..., None].expand(-1, -1, 2)).view(1, 128, 8, 2)
    distance = (ordered - centers[:, :, None]).norm(dim=-1)
    assert distance.mean() < 1.5 and distance.max() < 5


@operators
def test_companions_in_the_batch(operator):
    """As published, a companion with a large ratio costs the keys of the others their last bits."""
    positions = tokens_on_canvas(64, 64, 900, batch=1)
    # Where the anchor beyond the last of 11 x 11 patches is.
    strange = torch.tensor([64 + 64 / 22 - 0.5, 64 - 64 / 22 - 0.5]).expand_as(positions)
    alone = operator(positions, 8, (64, 64))[0]
    together = operator(torch.cat([positions, strange]), 8, (64, 64))[0][:1]
    assert not torch.equal(alone, together)
    together = operator(torch.cat([positions, strange]), 8, (64, 64), per_image=True)[0][:1]
    assert torch.equal(alone, together)


@devices
@pytest.mark.parametrize("operator", [balanced_clusters, balanced_clusters_reference])
@pytest.mark.parametrize("x", [torch.nan, torch.inf, -torch.inf])
def test_the_order_is_a_permutation_whatever_the_positions(x, operator, device):
    positions = tokens_on_canvas(20, 20, 100).to(device)
    positions[0, ::7, 0] = x
    order, _ = operator(positions, 8, (20, 20))
    assert torch.equal(order.sort(-1).values, torch.arange(100, device=device).expand(2, -1))


@needs_binary
def test_a_cluster_larger_than_any_image():
    positions = tokens_on_canvas(20, 20, 100)
    assert_same(positions, 2**63 - 1, (20, 20))


@devices
@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0)])
def test_empty(batch, count, device):
    assert_same(torch.zeros(batch, count, 2, device=device), 8, (10, 10))


@needs_binary
def test_opcheck():
    positions = tokens_on_canvas(20, 30, 99)
    opcheck(torch.ops.segcore.balanced_clusters.default, (positions, 8, [20, 30], False))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    compiled = torch.compile(
        balanced_clusters, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    positions = tokens_on_canvas(20, 30, 99)
    for actual, expected in zip(
        compiled(positions, 8, (20, 30)), balanced_clusters(positions, 8, (20, 30)), strict=True
    ):
        assert torch.equal(actual, expected)


@operators
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3, 2), 8, (4, 4)), ValueError, r"positions: expected shape \(B, N, 2\)"),
        ((torch.zeros(1, 3, 3), 8, (4, 4)), ValueError, r"positions: expected shape \(B, N, 2\)"),
        ((torch.zeros(1, 3, 2).long(), 8, (4, 4)), TypeError, "positions: expected one of"),
        ((torch.zeros(1, 3, 2), 0, (4, 4)), ValueError, "cluster_size: expected at least 1, got 0"),
        ((torch.zeros(1, 3, 2), 8, (4, 0)), ValueError, "canvas: expected sides of at least 1"),
        ((torch.zeros(1, 3, 2), 8, (4,)), ValueError, r"canvas: expected \(height, width\)"),
    ],
)
def test_bad_arguments_are_named(operator, arguments, error, message):
    with pytest.raises(error, match=message):
        operator(*arguments)
