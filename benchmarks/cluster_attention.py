"""Attention over clusters beside two compositions in plain PyTorch.

    python -m benchmarks.cluster_attention [--device cpu|cuda] [--repeats 5] [--dtypes float32 ...]

The first stage of AFF-Tiny on a 512x512 image: 16,384 tokens in balanced clusters of 8, each token
sees its 6 nearest clusters; 2 heads of 32 channels. "Members" is the twin: it gathers the members'
keys and values token by token. "Clusters" gathers whole clusters, which are contiguous, and
multiplies matrices. All run in turns in one process; times are medians, memory is the extra peak of
a process of its own. On an idle machine the ratios mean most.
"""

import argparse
from collections.abc import Callable

import torch
from benchmarks.common import median_seconds, peak_mebibytes
from tabulate import tabulate
from torch import Tensor

from segcore.ops import (
    ClusterNeighborhood,
    balanced_clusters,
    cluster_attention,
    cluster_attention_reference,
    knn,
)
from segcore.ops.gather_reference import gather_tokens
from segcore.ops.offset_features import offset_features

SIDE, CLUSTER_SIZE, CLUSTERS_PER_TOKEN = 128, 8, 6
HEADS, CHANNELS = 2, 32
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def gather_clusters(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    neighborhood: ClusterNeighborhood,
    pos_weight: Tensor,
    pos_bias: Tensor,
    blank_k: Tensor,
    blank_v: Tensor,
) -> Tensor:
    """Attend by rows of whole clusters, as is possible where all clusters are full."""
    batch, tokens, heads, channels = q.shape
    clusters = neighborhood.clusters.long()
    image = torch.arange(batch, device=q.device)[:, None, None]

    def members_of_heads(rows: Tensor) -> Tensor:  # (B, N, h, m, c)
        whole = rows.reshape(batch, neighborhood.num_clusters, -1)[image, clusters]
        return whole.view(batch, tokens, -1, heads, channels).transpose(2, 3)

    members, _ = neighborhood.members()
    features = offset_features(gather_tokens(positions, members) - positions[:, :, None])
    bias = (features @ pos_weight.T + pos_bias).transpose(2, 3)  # (B, N, h, m)
    q = q * channels**-0.5
    logits = (members_of_heads(k) @ q[..., None]).squeeze(-1) + bias.to(q.dtype)
    blank = (q * blank_k.view(heads, channels)).sum(-1, keepdim=True)
    weights = torch.cat([logits, blank.to(q.dtype)], dim=-1).softmax(-1)
    output = (weights[..., None, :-1] @ members_of_heads(v)).squeeze(-2)
    output = output + weights[..., -1:] * blank_v.view(heads, channels)
    return output.flatten(2).to(q.dtype)


OPERATORS = {
    "members": cluster_attention_reference,
    "clusters": gather_clusters,
    "ours": cluster_attention,
}


def make_inputs(dtype: torch.dtype, device: str) -> tuple:
    """Return the arguments of the operators, those that have a gradient with one."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    side = torch.arange(SIDE, dtype=torch.float32)
    positions = torch.cartesian_prod(side, side).flip(-1)[None]
    order, centers = balanced_clusters(positions, CLUSTER_SIZE, (SIDE, SIDE))
    positions = positions[:, order[0]]
    clusters = knn(positions, centers, CLUSTERS_PER_TOKEN)

    def parameter(*shape: int, of: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, of).requires_grad_()

    rows = (1, SIDE * SIDE, HEADS, CHANNELS)
    return (
        *(parameter(*rows, of=dtype) for _ in range(3)),
        positions.to(device, precision),
        ClusterNeighborhood(clusters.to(device), CLUSTER_SIZE),
        parameter(HEADS, 5, of=precision),
        parameter(HEADS, of=precision),
        parameter(HEADS * CHANNELS, of=precision),
        parameter(HEADS * CHANNELS, of=precision),
    )


def make_run(operator: str, dtype: str, device: str, backward: bool) -> Callable[[], object]:
    """Return a function that runs an operator once: forward, or forward and backward."""
    arguments = make_inputs(getattr(torch, dtype), device)
    inputs = [tensor for tensor in arguments if getattr(tensor, "requires_grad", False)]
    grad_output = torch.randn(1, SIDE * SIDE, HEADS * CHANNELS).to(arguments[0])
    arguments[4].inverse_lists()  # once a stage

    def forward() -> None:
        with torch.no_grad():
            OPERATORS[operator](*arguments)

    def forward_and_backward() -> None:
        torch.autograd.grad(OPERATORS[operator](*arguments), inputs, grad_output)

    return forward_and_backward if backward else forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES[:1], choices=DTYPES)
    arguments = parser.parse_args()

    rows = []
    for dtype in arguments.dtypes:
        for backward in (False, True):
            options = (dtype, arguments.device, backward)
            runs = {name: make_run(name, *options) for name in OPERATORS}
            seconds = median_seconds(runs, arguments.repeats, arguments.device)
            memory = [
                peak_mebibytes(make_run, name, *options, device=arguments.device)
                for name in OPERATORS
            ]
            what = "forward + backward" if backward else "forward"
            *others, ours = (1e3 * value for value in seconds.values())
            *other_memory, our_memory = memory
            speed, thrift = min(others) / ours, min(other_memory) / our_memory
            rows.append([dtype, what, *others, ours, speed, *memory, thrift])
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    print(
        f"cluster_attention on {name}, {torch.get_num_threads()} threads,"
        f" PyTorch {torch.__version__}"
    )
    headers = ["dtype", "what", "members ms", "clusters ms", "ours ms", "faster"]
    headers += ["members MiB", "clusters MiB", "ours MiB", "less"]
    print(tabulate(rows, headers, floatfmt=("", "", *[".1f"] * 4, *[".0f"] * 3, ".1f")))


if __name__ == "__main__":
    main()
