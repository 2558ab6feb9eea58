import torch

import operator_checks as checks
from operator_inputs import point_gather_inputs as make_inputs
from operator_tester import OperatorTester, permuted
from segcore.ops import point_gather
from segcore.ops.gather_reference import weighted_gather


class TestPointGather(OperatorTester):
    name = "point_gather"
    differentiable = ("features", "weights")
    channels = (1, 7, 8, 32, 47, 256)
    sizes = (
        {"batch": 1, "tokens": 1, "queries": 1, "k": 1},
        {"batch": 3, "tokens": 500, "queries": 13, "k": 9},
        {"queries": 0},
        {"batch": 0},
        {"k": 0},
        {"channels": 0},
    )
    parallel_sizes = {"queries": 3000, "channels": 33}  # noqa: RUF012
    layouts = {  # noqa: RUF012
        "features": permuted(0, 2, 1),
        "indices": torch.Tensor.int,
        "weights": permuted(2, 1, 0),
    }
    bad_arguments = (
        ({"features": lambda f: f[0]}, ValueError, r"features: expected shape \(B, N, C\)"),
        ({"features": lambda f: f.int()}, TypeError, "features: expected one of float64"),
        ({"indices": lambda i: i.float()}, TypeError, "indices: expected int64 or int32"),
        ({"indices": lambda i: i[:1]}, ValueError, "indices: expected shape"),
        ({"weights": lambda w: w[:, :3]}, ValueError, "weights: expected shape"),
        ({"weights": lambda w: w.to("meta")}, ValueError, "weights: expected the device"),
        ({"indices": lambda i: i + 5}, RuntimeError, "ind"),
        ({"indices": lambda i: i - 1}, RuntimeError, "ind"),
    )
    bad_kernel_arguments = (
        ({"indices": lambda i: i + 5}, "indices: expected indices from 0 to 10, got 15"),
        ({"weights": lambda w: w.float()}, "weights: expected Double, got Float"),
        ({"weights": lambda w: w[:1]}, "weights: expected size 2 in dimension 0, got 1"),
        ({"indices": lambda i: i.int()}, "indices: expected Long, got Int"),
    )


def test_equals_the_official_operator():
    arguments = make_inputs()
    expected = weighted_gather(*(arguments[name] for name in ("indices", "weights", "features")))
    torch.testing.assert_close(point_gather(**arguments), expected)


def test_types_of_gradients():
    arguments = make_inputs(dtype=torch.bfloat16)
    grads = checks.run_with_gradients(point_gather, arguments, ("features", "weights"))
    assert grads["features"].dtype == torch.bfloat16 and grads["weights"].dtype == torch.float32
