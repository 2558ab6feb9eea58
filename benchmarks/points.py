"""The operators on scattered tokens beside their PyTorch twins.

    python -m benchmarks.points [--device cpu|cuda] [--repeats 5]

Sizes of AFF-Mini on a 512x512 image: a grid of 128 x 128 tokens, of which 4,096, 1,024 and 256
stay. "Clustering" is all that the backbone needs of balanced_clusters and knn. Both implementations
run in turns in one process; times are medians. On an idle machine the ratios mean most.
"""

import argparse
from collections.abc import Callable

import torch
from benchmarks.common import median_seconds
from tabulate import tabulate
from torch import Tensor

from segcore import ops

SIDE = 128
TOKENS = (4096, 1024, 256)
CLUSTER_SIZE, CLUSTERS_PER_TOKEN = 8, 6
Operator = Callable[..., Tensor]


def grid() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.stack([x, y], -1).view(1, -1, 2).float()


def stages() -> list[Tensor]:
    """Return positions of the tokens of the four stages."""
    generator = torch.Generator().manual_seed(0)
    positions = [grid()]
    for count in TOKENS:
        tokens = positions[-1].shape[1]
        kept = torch.randperm(tokens, generator=generator)[:count].sort().values
        positions.append(positions[-1][:, kept])
    return positions


def clustering(positions: list[Tensor], cluster: Operator, nearest: Operator) -> None:
    """Return clusters and neighborhoods of four stages, local strides of the second and third."""
    for stage, tokens in enumerate(positions):
        order, centers = cluster(tokens, CLUSTER_SIZE, (SIDE, SIDE))
        nearest(tokens[:, order[0]], centers, CLUSTERS_PER_TOKEN)
        if stage in (1, 2):
            nearest(tokens, tokens, 2)


def merge_inputs(channels: int) -> tuple[tuple, tuple[int, ...]]:
    """Return inputs of stage 1 merging into a quarter of its tokens."""
    order, centers = ops.balanced_clusters(grid(), CLUSTER_SIZE, (SIDE, SIDE))
    positions = grid()[:, order[0]]
    near = ops.knn(positions, centers, CLUSTERS_PER_TOKEN)
    members, _ = ops.ClusterNeighborhood(near, CLUSTER_SIZE).members()
    tokens = positions.shape[1]
    return (
        torch.randn(1, tokens, channels),
        positions,
        positions[:, ::4],
        members[:, ::4],
        None,
        torch.rand(1, tokens),
        *weight_net(),
    ), (0, 5, 6, 7, 8, 9)


def convolution_inputs(channels: int) -> tuple[tuple, tuple[int, ...]]:
    """Return inputs of the pixel decoder's convolution over nine neighbors."""
    members = ops.knn(grid(), grid(), 9)
    features = torch.randn(1, SIDE * SIDE, channels)
    return (features, grid(), grid(), members, None, None, *weight_net()), (0, 6, 7, 8, 9)


def weight_net() -> tuple[Tensor, ...]:
    return 0.1 * torch.randn(4, 5), *torch.randn(3, 4).unbind()


def gather_inputs(channels: int) -> tuple[tuple, tuple[int, ...]]:
    """Return inputs of the interpolation of 4,096 tokens on the grid."""
    indices = ops.knn(grid(), stages()[1], 4)
    return (torch.randn(1, TOKENS[0], channels), indices, torch.rand(indices.shape)), (0, 2)


def deform_inputs(channels: int) -> tuple[tuple, tuple[int, ...]]:
    """Return inputs of one encoder layer: all tokens of three levels, 8 heads, 4 points a level."""
    levels = stages()[1:]
    first, tables = 0, []
    for tokens in levels:
        tables.append(ops.knn(grid(), tokens, 4) + first)
        first += tokens.shape[1]
    positions = torch.cat(levels, 1)
    offsets = 4 * torch.randn(1, first, 8, len(levels), 4, 2)
    attention = torch.randn(offsets.shape[:-1]).flatten(-2).softmax(-1).view(offsets.shape[:-1])
    values = torch.randn(1, first, 8, channels // 8)
    locations = positions[:, :, None, None, None] + offsets
    return (
        values,
        positions,
        torch.stack(tables, 1),
        (SIDE, SIDE),
        locations,
        attention,
        torch.tensor([3.0]),
    ), (0, 4, 5, 6)


CASES = {
    "merge 4,096 of 16,384, 48 members, 32 channels": ("neighborhood_merge", merge_inputs, 32),
    "convolution 16,384, 9 members, 256": ("neighborhood_merge", convolution_inputs, 256),
    "gather 16,384, 4 neighbors, 256": ("point_gather", gather_inputs, 256),
    "deformable attention 5,376, 256": ("point_deform_attn", deform_inputs, 256),
}


def runs(operator: Operator, inputs: tuple, differentiable: tuple[int, ...]) -> tuple:
    """Return functions that run an operator once: forward, and forward and backward."""
    inputs = list(inputs)
    for i in differentiable:
        inputs[i] = inputs[i].detach().requires_grad_()
    grad_output = torch.randn_like(operator(*inputs))

    def forward() -> None:
        with torch.no_grad():
            operator(*inputs)

    def forward_and_backward() -> None:
        torch.autograd.grad(operator(*inputs), [inputs[i] for i in differentiable], grad_output)

    return forward, forward_and_backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    rows = []

    def measure(name: str, functions: dict[str, Callable[[], None]]) -> None:
        seconds = median_seconds(functions, arguments.repeats, arguments.device)
        twin, ours = 1e3 * seconds["twin"], 1e3 * seconds["ours"]
        rows.append([name, f"{twin:.1f}", f"{ours:.1f}", f"{twin / ours:.1f}"])

    positions = [tokens.to(arguments.device) for tokens in stages()]
    twins = (ops.balanced_clusters_reference, ops.knn_reference)
    measure(
        "clustering of the backbone",
        {
            "twin": lambda: clustering(positions, *twins),
            "ours": lambda: clustering(positions, ops.balanced_clusters, ops.knn),
        },
    )
    for name, (operator, make_inputs, channels) in CASES.items():
        torch.manual_seed(0)
        inputs, differentiable = make_inputs(channels)
        inputs = tuple(x.to(arguments.device) if isinstance(x, Tensor) else x for x in inputs)
        twin = runs(getattr(ops, f"{operator}_reference"), inputs, differentiable)
        ours = runs(getattr(ops, operator), inputs, differentiable)
        for i, what in enumerate(("forward", "forward + backward")):
            measure(f"{name}: {what}", {"twin": twin[i], "ours": ours[i]})
    print(f"{torch.get_num_threads()} threads, float32, {arguments.device}")
    print(tabulate(rows, headers=["", "twin ms", "ours ms", "faster"], tablefmt="github"))


if __name__ == "__main__":
    main()
