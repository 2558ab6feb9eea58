import pytest
import torch

import operator_checks as checks
from operator_tester import OperatorTester, permuted
from segcore.ops import (
    inverse_distance_weights,
    point_deform_attn,
    point_deform_attn_reference,
)


class TestPointDeformAttn(OperatorTester):
    name = "point_deform_attn"
    differentiable = ("values", "locations", "attention", "power")
    tolerance = 2e-5
    channels = (1, 7, 8, 32, 48)
    sizes = (
        {"batch": 1, "level_sizes": (1,), "heads": 1, "queries": 1, "points": 1, "k": 1},
        {"level_sizes": (5,), "k": 7, "points": 3, "canvas": (1, 40)},
        {"spread": 100.0},
        {"queries": 0},
        {"batch": 0},
        {"heads": 0},
        {"channels": 0},
        {"points": 0},
        {"level_sizes": ()},
    )
    parallel_sizes = {"queries": 500, "channels": 33}  # noqa: RUF012
    layouts = {  # noqa: RUF012
        "values": permuted(0, 3, 2, 1),
        "neighbors": torch.Tensor.int,
        "positions": torch.Tensor.half,
        "locations": permuted(0, 2, 1, 3, 4, 5),
    }
    bad_arguments = (
        ({"values": lambda v: v[0]}, ValueError, r"values: expected shape \(B, N, M, D\)"),
        ({"values": lambda v: v.int()}, TypeError, "values: expected one of float64"),
        ({"positions": lambda p: p[:, 1:]}, ValueError, "positions: expected shape"),
        ({"neighbors": lambda n: n.float()}, TypeError, "neighbors: expected int64 or int32"),
        ({"neighbors": lambda n: n[:, :, 1:]}, ValueError, "neighbors: expected shape"),
        ({"canvas": lambda c: (9, 12)}, ValueError, "neighbors: expected shape"),
        ({"canvas": lambda c: (9, -11)}, ValueError, "canvas: expected sides of at least 1"),
        ({"locations": lambda x: x[:, :, :, 1:]}, ValueError, "locations: expected shape"),
        ({"attention": lambda a: a[:, 1:]}, ValueError, "attention: expected shape"),
        ({"attention": lambda a: a.to("meta")}, ValueError, "attention: expected the device"),
        ({"power": lambda p: p.expand(2)}, ValueError, "power: expected one element"),
    )
    bad_kernel_arguments = (
        ({"neighbors": lambda n: n + 1}, "neighbors: expected indices from -1 to 62, got 63"),
        ({"neighbors": lambda n: n - 1}, "neighbors: expected indices from -1 to 62, got -2"),
        ({"locations": lambda x: x.float()}, "locations: expected Double, got Float"),
        ({"canvas": lambda c: (9,)}, "canvas: expected"),
    )

    def gradcheck_inputs(self, device):
        """Locations that are not between two cells, where the neighbors change."""
        arguments = self.make_inputs(channels=2, queries=2, heads=2, points=2, device=device)
        locations = arguments["locations"]
        offsets = (locations - locations.round()).clamp(-0.4, 0.4)
        return arguments | {"locations": locations.round() + offsets}

    @pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 5.7])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_powers(self, power, dtype, device):
        self.assert_same(self.make_inputs(power=power, dtype=dtype, device=device), dtype)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_locations_on_tokens_and_between_cells(self, dtype, device):
        """On a token nothing flows to location and power; halves are rounded to the even cell."""
        arguments = self.make_inputs(dtype=dtype, device=device)
        locations = arguments["locations"]
        locations[:, ::2] = locations[:, ::2].round()
        locations[:, 1::2] = locations[:, 1::2].floor() + 0.5
        self.assert_same(arguments, dtype)
        results = checks.run_with_gradients(self.operator, arguments, self.differentiable)
        assert all(tensor.isfinite().all() for tensor in results.values())

    @pytest.mark.parametrize("location", [torch.nan, torch.inf, 1e30])
    def test_wild_locations_stay_in_the_tables(self, location, device):
        """The other queries are as before."""
        arguments = self.make_inputs(device=device)
        expected = self.operator(**arguments)
        arguments["locations"][:, 0] = location
        actual = self.operator(**arguments)
        assert torch.equal(actual[:, 1:], expected[:, 1:])

    def test_nan_locations_show(self, binary):
        arguments = self.make_inputs(dtype=torch.float32)
        arguments["locations"][:, 0] = torch.nan
        assert self.operator(**arguments)[:, 0].isnan().all()


@pytest.mark.parametrize("operator", [point_deform_attn, point_deform_attn_reference])
def test_by_hand(operator):
    """Tokens at x = 0 and x = 3 of a row of 4, read at x = 1: weights 4 to 1 at power 1."""
    arguments = {
        "values": torch.tensor([10.0, 20.0]).view(1, 2, 1, 1),
        "positions": torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]),
        "neighbors": torch.tensor([0, 1]).expand(1, 1, 4, 2),
        "canvas": (1, 4),
        "locations": torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 1, 2),
        "attention": torch.full((1, 1, 1, 1, 1), 2.0),
    }
    for power, expected in ((1.0, 24.0), (torch.tensor([2.0]), 360 / 17)):
        output = operator(**arguments, power=power)
        torch.testing.assert_close(output, torch.full((1, 1, 1), expected))


def test_inverse_distance_weights():
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    neighbors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    neighbors = neighbors.expand(3, 3, 2)
    weights = inverse_distance_weights(queries, neighbors, 3.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 0.0, 0.0]).double())
    torch.testing.assert_close(weights[1], torch.tensor([8.0, 8.0, 1.0]).double() / 17)
    valid = torch.tensor([False, True, True])
    weights = inverse_distance_weights(queries, neighbors, 1.0, valid)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.2, 0.8]).double())


def test_gradients_of_inverse_distance_weights_at_a_token():
    queries = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    power = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    neighbors = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    weights = inverse_distance_weights(queries, neighbors, power)
    grads = torch.autograd.grad(weights[0, 1], [queries, power])
    assert all(grad.isfinite().all() and grad.abs().max() < 1e-9 for grad in grads)
