"""The CUDA kernels of attention over clusters, run lane by lane on the CPU, against the twin."""

import pytest
import torch

import operator_checks as checks
from operator_inputs import cluster_attention_inputs
from segcore.ops import cluster_attention_reference

DIFFERENTIABLE = ("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v")


@pytest.mark.parametrize(
    ("dtype", "tokens", "channels", "cluster_size", "clusters_per_token"),
    [
        (torch.float64, 11, 1, 1, 4),
        (torch.float64, 21, 33, 8, 2),
        (torch.float64, 3, 131, 2, 1),
        (torch.float64, 19, 24, 8, 3),
        (torch.float64, 28, 8, 24, 2),
        (torch.float64, 20, 4, 20, 1),
        (torch.float64, 6, 3, 8, 0),
        (torch.float64, 6, 0, 8, 1),
        (torch.float64, 0, 4, 8, 0),
        (torch.float32, 19, 7, 3, 5),
        (torch.float32, 35, 24, 8, 5),
        (torch.float32, 32, 128, 24, 3),  # offsets of 64 bits, rows in parts, many members
        (torch.float16, 24, 24, 8, 2),
        (torch.bfloat16, 24, 32, 4, 2),
        # Tensor cores from here on.
        (torch.float32, 35, 32, 8, 5),
        (torch.float32, 43, 16, 21, 2),  # clusters of two tiles
        (torch.float32, 7, 64, 6, 0),
        (torch.float16, 37, 32, 8, 3),
        (torch.float16, 24, 64, 12, 2),
        (torch.bfloat16, 24, 16, 5, 3),
    ],
)
def test_matches_twin(on_host, dtype, tokens, channels, cluster_size, clusters_per_token):
    arguments = cluster_attention_inputs(
        batch=1 if tokens > 30 else 2,
        tokens=tokens,
        channels=channels,
        cluster_size=cluster_size,
        clusters_per_token=clusters_per_token,
        dtype=dtype,
    )
    arguments["scale"] = 0.6
    expected = checks.run_with_gradients(cluster_attention_reference, arguments, DIFFERENTIABLE)
    neighborhood = arguments["neighborhood"]
    raw = {}
    for name, value in arguments.items():
        if name == "neighborhood":
            raw |= {"clusters": neighborhood.clusters, "cluster_size": cluster_size}
        else:
            raw[name] = value
    raw["indices"], raw["offsets"] = neighborhood.inverse_lists()
    actual = checks.run_kernels(on_host, "cluster_attention", raw, DIFFERENTIABLE)
    tolerance = {torch.float64: 1e-7, torch.float32: 2e-5}.get(dtype, 1e-2)
    checks.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
