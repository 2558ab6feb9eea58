import pytest
import torch

import operator_checks as checks
from operator_inputs import neighborhood_merge_inputs as make_inputs
from operator_tester import OperatorTester, permuted
from segcore.ops import (
    ClusterNeighborhood,
    balanced_clusters,
    knn,
    neighborhood_merge,
    neighborhood_merge_reference,
)


class TestNeighborhoodMerge(OperatorTester):
    name = "neighborhood_merge"
    differentiable = (
        "features", "importance", "linear_weight", "linear_bias", "norm_weight", "norm_bias",
    )  # fmt: skip
    channels = (1, 5, 8, 16, 32, 59)
    sizes = (
        {"batch": 1, "tokens": 1, "queries": 1, "size": 1, "channels": 1},
        {"batch": 3, "tokens": 300, "queries": 200, "size": 48},
        {"size": 16},
        {"size": 17},
        {"mask": False},
        {"importance": False},
        {"mask": False, "importance": False},
        {"queries": 0},
        {"batch": 0},
        {"size": 0},
        {"channels": 0},
    )
    opcheck_sizes = ({}, {"queries": 0}, {"mask": False, "importance": False})
    parallel_sizes = {"queries": 3000, "tokens": 500}  # noqa: RUF012
    layouts = {  # noqa: RUF012
        "features": permuted(0, 2, 1),
        "members": torch.Tensor.int,
        "mask": permuted(0, 2, 1),
        "positions": torch.Tensor.half,
    }
    bad_arguments = (
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
    )
    bad_kernel_arguments = (
        ({"members": lambda m: m - 1}, "members: expected indices from 0 to 29, got -1"),
        ({"centers": lambda c: c.float()}, "centers: expected Double, got Float"),
        ({"mask": lambda m: m.int()}, "mask: expected Bool"),
        ({"importance": lambda i: i[:1]}, "importance: expected size 2 in dimension 0, got 1"),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_matches_twin_on_a_real_clustering(self, dtype, device):
        """34 x 30 tokens in clusters of 8, the last one part-filled; a quarter of them merges."""
        y, x = torch.meshgrid(torch.arange(34), torch.arange(30), indexing="ij")
        positions = torch.stack([x, y], -1).view(1, -1, 2).to(device).float()
        order, clusters = balanced_clusters(positions, 8, (34, 30))
        positions = positions[:, order[0]]
        neighborhood = ClusterNeighborhood(knn(positions, clusters, 6), 8)
        members, valid = neighborhood.members()
        arguments = self.make_inputs(
            tokens=34 * 30, batch=1, channels=32, dtype=dtype, device=device
        )
        precision = arguments["positions"].dtype
        arguments |= {
            "positions": positions.to(precision),
            "centers": positions[:, ::4].to(precision),
            "members": members[:, ::4],
            "mask": valid[:, ::4],
        }
        self.assert_same(arguments, dtype)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_gelu_over_its_whole_range(self, dtype):
        """The layer norm's scale and shift carry the argument of GELU from -30 to 30."""
        arguments = self.make_inputs(dtype=dtype, importance=False, mask=False)
        for shift in torch.linspace(-30, 30, 61).tolist():
            arguments["norm_bias"] = torch.full((4,), shift, dtype=dtype)
            self.assert_same(arguments, dtype)

    def test_masked_members_do_not_leak(self, device):
        arguments = self.make_inputs(device=device)
        arguments["mask"] &= arguments["members"] != 5
        arguments["features"][:, 5] = torch.nan
        output = checks.run_with_gradients(self.operator, arguments, self.differentiable)
        assert all(tensor.isfinite().all() for tensor in output.values())


@pytest.mark.parametrize("operator", [neighborhood_merge, neighborhood_merge_reference])
def test_offsets_of_the_opposite_sign(operator):
    """Mirrored positions, and negated columns of dx, dy, sine and cosine, are the same."""
    arguments = make_inputs()
    mirrored = arguments | {name: -arguments[name] for name in ("positions", "centers")}
    signs = torch.tensor([-1.0, -1.0, 1.0, -1.0, -1.0])
    mirrored["linear_weight"] = arguments["linear_weight"] * signs
    torch.testing.assert_close(operator(**mirrored), operator(**arguments))
