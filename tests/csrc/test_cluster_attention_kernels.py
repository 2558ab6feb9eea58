"""The CUDA kernels of attention over clusters, run lane by lane on the CPU, against the twin."""

import ctypes

import pytest
import torch

from segcore.ops import ClusterNeighbourhood, cluster_attention_reference

SOURCE = "cluster_attention_on_host.cpp"


def pointers(tensors):
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@pytest.mark.parametrize(
    ("dtype", "vector", "tokens", "channels", "cluster_size", "clusters_per_token"),
    [
        (torch.float64, 1, 11, 1, 1, 4),
        (torch.float64, 1, 21, 33, 8, 2),
        (torch.float64, 1, 3, 130, 2, 1),
        (torch.float64, 2, 27, 24, 8, 4),
        (torch.float64, 2, 50, 8, 24, 3),
        (torch.float64, 2, 40, 4, 40, 1),
        (torch.float64, 1, 6, 3, 8, 0),
        (torch.float32, 1, 19, 7, 3, 5),
        (torch.float32, 4, 43, 32, 8, 6),
        (torch.float16, 8, 24, 32, 8, 2),
    ],
)
def test_cluster_attention(
    kernels, dtype, vector, tokens, channels, cluster_size, clusters_per_token
):
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    batch, heads = 2, 3
    order = torch.rand(batch, tokens, -(-tokens // cluster_size), generator=generator).argsort(-1)
    neighbourhood = ClusterNeighbourhood(order[..., :clusters_per_token], cluster_size)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    rows = [randn(batch, tokens, heads, channels).to(dtype).requires_grad_() for _ in range(3)]
    positions = torch.randint(5, (batch, tokens, 2), generator=generator).to(precision)
    sizes_of_parameters = ((heads, 5), (heads,), (heads * channels,), (heads * channels,))
    parameters = [randn(*size).to(precision).requires_grad_() for size in sizes_of_parameters]
    grad_output = randn(batch, tokens, heads * channels).to(dtype)
    inputs = [*rows, *parameters]
    expected = cluster_attention_reference(*rows, positions, neighbourhood, *parameters, scale=0.6)
    expected = [expected, *torch.autograd.grad(expected, inputs, grad_output)]

    sizes = [batch, tokens, heads, channels, neighbourhood.clusters.shape[2], cluster_size]
    tensors = [
        *rows, neighbourhood.clusters, positions, *parameters, grad_output, *neighbourhood.users()
    ]  # fmt: skip
    actual = [torch.full_like(tensor, torch.nan) for tensor in (grad_output, *inputs)]
    name = f"cluster_attention_{str(dtype).removeprefix('torch.')}_{vector}"
    getattr(kernels, name)(
        (ctypes.c_int64 * len(sizes))(*sizes),
        ctypes.c_double(0.6),
        pointers(tensors),
        pointers(actual),
    )
    tolerance = {
        torch.float64: {},
        torch.float32: {"rtol": 1e-4, "atol": 1e-4},
        torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    }[dtype]
    for ours, twin in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, twin, **tolerance)
