#!/usr/bin/env python3
"""Registers, occupancy and estimated times of the main CUDA kernels, without a GPU.

    python tools/kernel_report.py [--library projects/segcore/_C_cuda13.abi3.so]

Prints a Markdown table of the resources of the kernels in the library that `make cuda` builds,
beside the least time that memory, first-level cache and the issue of instructions need for a
workload; nothing is measured. Needs cuobjdump, of CUDA's toolkit or Triton.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WARPS_OF_BLOCK = 8
LINE = 128  # bytes that the first-level cache of a multiprocessor, or its exchanges, move per clock
SYSTEMS_SHARED = 1024  # bytes of shared memory that the system takes of a block
ISSUES = 4  # instructions of warps that a multiprocessor issues per clock


@dataclass(frozen=True)
class Architecture:
    """A GPU of a compute capability; ``bandwidth`` as a copy reaches it, in bytes a second."""

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float
    shared_memory: int  # of a multiprocessor, bytes

    def occupancy(self, registers: int, shared: int) -> int:
        """Return the warps of a multiprocessor, of 64."""
        registers = -(-registers // 8) * 8
        blocks = [64 // WARPS_OF_BLOCK, 65536 // (registers * 32 * WARPS_OF_BLOCK)]
        if shared:
            blocks.append(self.shared_memory // (shared + SYSTEMS_SHARED))
        return min(blocks) * WARPS_OF_BLOCK


ARCHITECTURES = {
    80: Architecture("A100", 108, 1.41e9, 1.7e12, 164 << 10),
    90: Architecture("H200", 132, 1.98e9, 4.3e12, 228 << 10),
}


@dataclass(frozen=True)
class Workload:
    """Traffic of one launch: bytes that device memory has to move at least; rows of channels that
    pass the first-level cache; shuffles and accesses to shared memory of all warps; instructions of
    all warps, counted in the disassembly for sm_90, or None."""

    memory: float
    rows: float
    exchanges: float = 0
    instructions: float | None = None

    def times(self, architecture: Architecture) -> list[str]:
        """Return the microseconds that memory, cache and instructions need, as text."""
        clocks = architecture.multiprocessors * architecture.clock
        traffic = self.rows + LINE * self.exchanges
        times = [self.memory / architecture.bandwidth, traffic / (clocks * LINE)]
        if self.instructions is not None:
            times.append(self.instructions / (clocks * ISSUES))
        return [f"{time * 1e6:.1f}" for time in times] + [""] * (3 - len(times))


def deformable(size: int, backward: bool, with_logits: bool = False) -> Workload:
    """One encoder call of an 800x1333 image: 8 heads of 32 channels, 12 samples of 3 levels."""
    queries, heads, channels, samples, levels = 22050, 8, 32, 12, 3
    value = queries * heads * channels * size
    gradients = places = queries * heads * samples * 12  # of locations and weights, float32
    if with_logits:  # offsets and logits, reference points; gradients of the latter by head
        places = places // 4 * size + queries * levels * 8
        gradients += queries * levels * 8 * (2 * heads + 1)
    row = channels * size
    lanes = 8 if backward or size == 4 else 4
    warp_samples = queries * heads * samples * lanes / 32
    corners = queries * heads * samples * 4 * row
    if not backward:
        softmax = 4 * queries * heads / 8 if with_logits else 0  # shuffles of 8 queries
        return Workload(2 * value + places, corners, 2 * warp_samples + softmax)
    gradient = queries * heads * channels * 4
    memory = 2 * value + places + gradients + 2 * gradient
    # Sample 2, sums of the four products 4 and their store 1.
    return Workload(memory, corners + corners / 4, 7 * warp_samples)


TILES = 2048  # of 16 tokens and one head
CLUSTERS_OF_TILE = 12.4  # that any token of a tile sees, on a full grid


def cluster(size: int, part: str) -> Workload:
    """Stage 1 of AFF-Tiny on a 512x512 image: 16,384 tokens, 2 heads of 32 channels, 6 clusters of
    8 tokens."""
    tensor = 16 * TILES * 32 * size
    columns = 8 * 32 * size  # of a tile: rows of 8 tokens
    steps = TILES * CLUSTERS_OF_TILE
    once = {"forward": 850, "queries": 1450, "keys": 600}  # instructions outside of the loops
    loops = {  # instructions of a step, float32 and float16
        "forward": {4: 565, 2: 420},
        "queries": {4: 580 + 685, 2: 389 + 455},
        "keys": {4: 612, 2: 349},
    }
    if part == "forward":
        instructions = steps * loops[part][size] + TILES * once[part]
        return Workload(4 * tensor, 2 * steps * columns, 6 * steps, instructions)
    if part == "queries":
        instructions = steps * loops[part][size] + TILES * once[part]
        return Workload(5 * tensor, 5 * steps * columns, 6 * steps, instructions)
    if part == "keys":  # a warp has a cluster, seen by 48 queries
        warps, passes = 2 * TILES, 6
        instructions = warps * (passes * loops[part][size] + once[part])
        return Workload(6 * tensor, 4 * warps * passes * columns, 0, instructions)
    sums_of_tokens = 16 * TILES * 40
    return Workload(2 * tensor + sums_of_tokens, 2 * tensor)


def gather(part: str) -> Workload:
    """4 neighbors of 16,384 queries among as many tokens of 256 channels, float32; a warp a row, in
    two parts."""
    rows, row = 16384, 256 * 4
    lists = rows * 4 * (8 + 4)
    instructions = {"forward": 422, "weights": 440, "features": 496}[part]
    read = {"forward": 4, "weights": 8, "features": 4}[part] * row
    exchanges = 20 * rows if part == "weights" else 0
    return Workload(2 * rows * row + lists, rows * read, exchanges, rows * instructions)


def merge(part: str) -> Workload:
    """4,096 of 16,384 tokens of 32 channels, float32, 48 members: 8 lanes a query or token."""
    tokens, queries, members, row = 16384, 4096, 48, 32 * 4
    entries, results = queries * members, queries * 4 * row
    positions = (tokens + queries) * 8
    if part == "forward":
        warps, chunks = queries / 4, members / 8
        memory = tokens * row + results + entries * 8 + positions
        return Workload(memory, entries * row, warps * chunks * 40, warps * (chunks * 700 + 245))
    if part == "net":
        memory = tokens * row + results + entries * (8 + 20) + positions + queries * 32 * 8
        return Workload(memory, entries * 5 * row, queries / 4 * members * (5 + 4 * 3))
    memory = tokens * row + results + entries * (8 + 20)
    warps = tokens / 4
    return Workload(memory, entries * 4 * row, 0, warps * (entries / tokens * 61.5 + 270))


def point_deformable(backward: bool) -> Workload:
    """5,376 tokens of three levels, 8 heads of 32 channels, 12 samples of 4 neighbors, float32."""
    tokens, row = 5376, 256 * 4
    triples = 8 * tokens
    places = triples * 12 * 12  # locations and attention
    table = 3 * 128 * 128 * 4 * 8
    rows = triples * 12 * 4 * 128
    warps = triples / 4
    if not backward:
        exchanges = warps * 2 * 4 * 8 * 2
        return Workload(2 * tokens * row + places + table, rows, exchanges, warps * 3800)
    memory = 3 * tokens * row + 2 * places + table + triples * 8
    return Workload(memory, 3 * rows, warps * 2 * 4 * 8 * 5)


def nearest() -> Workload:
    """6 of 2,048 centers for 16,384 tokens: about 36 points are looked at."""
    queries, points, looked_at = 16384, 2048, 36
    instructions = queries / 32 * (looked_at * 78 + 600)
    memory = queries * (8 + 6 * 8) + points * 16
    return Workload(memory, queries * looked_at * 16, 0, instructions)


def patch_keys() -> Workload:
    """16,384 tokens."""
    return Workload(16384 * (8 + 4), 16384 * 12, 0, 16384 / 32 * 500)


# Title, namespace, kernel as the library has it (groups of an optional type of offsets), workload.
KERNELS = [
    (f"{title}, {short}", namespace, pattern.format(kind), workload(size))
    for kind, short, size in (("float", "float32", 4), ("c10::Half", "float16", 2))
    for title, namespace, pattern, workload in (
        (
            "MSDeformAttn forward",
            "ms_deform_attn",
            rf"::forward_kernel<{{}}, \S*GivenSamples<\S+>, int, {16 // size}, {2 * size}>",
            lambda size: deformable(size, backward=False),
        ),
        (
            "MSDeformAttn backward",
            "ms_deform_attn",
            r"::backward_kernel<{}, \S*GivenSamples<\S+>, int, 4, 8>",
            lambda size: deformable(size, backward=True),
        ),
        (
            "MSDeformAttn with logits forward",
            "ms_deform_attn",
            rf"::forward_kernel<{{}}, \S*LogitSamples<\S+>, int, {16 // size}, {2 * size}>",
            lambda size: deformable(size, backward=False, with_logits=True),
        ),
        (
            "MSDeformAttn with logits backward",
            "ms_deform_attn",
            r"::backward_kernel<{}, \S*LogitSamples<\S+>, int, 4, 8>",
            lambda size: deformable(size, backward=True, with_logits=True),
        ),
        (
            "cluster attention forward",
            "cluster_attention",
            r"::forward_tiles_kernel<{}, 32>",
            lambda size: cluster(size, "forward"),
        ),
        (
            "cluster attention, gradient of queries",
            "cluster_attention",
            r"::backward_queries_tiles_kernel<{}, 32>",
            lambda size: cluster(size, "queries"),
        ),
        (
            "cluster attention, gradient of keys and values",
            "cluster_attention",
            r"::backward_keys_tiles_kernel<{}, 32>",
            lambda size: cluster(size, "keys"),
        ),
        (
            "cluster attention, gradient of parameters",
            "cluster_attention",
            r"::backward_parameters_kernel<{}>",
            lambda size: cluster(size, "parameters"),
        ),
    )
]
KERNELS += [
    (f"{title}, float32", namespace, pattern, workload)
    for title, namespace, pattern, workload in (
        (
            "MSDeformAttn, deterministic",
            "ms_deform_attn",
            "::value_gradients_kernel<float, 4, 8>",
            None,
        ),
        (
            "point_deform_attn forward",
            "point_deform_attn",
            "::forward_kernel<float, int, 4, 8>",
            point_deformable(backward=False),
        ),
        (
            "point_deform_attn backward",
            "point_deform_attn",
            "::backward_kernel<float, int, 4, 8>",
            point_deformable(backward=True),
        ),
        (
            "point_deform_attn, deterministic",
            "point_deform_attn",
            "::value_gradients_kernel<float, int, 4, 8>",
            None,
        ),
        (
            "point_gather forward",
            "point_gather",
            "::forward_kernel<float, int, 4, 32>",
            gather("forward"),
        ),
        (
            "point_gather, gradient of weights",
            "point_gather",
            "::weight_gradients_kernel<float, int, 4, 32>",
            gather("weights"),
        ),
        (
            "point_gather, gradient of features",
            "point_gather",
            "::feature_gradients_kernel<float, int, 4, 32>",
            gather("features"),
        ),
        (
            "neighborhood_merge forward",
            "neighborhood_merge",
            "::forward_kernel<float, int, 4, 8>",
            merge("forward"),
        ),
        (
            "neighborhood_merge, gradient of weights",
            "neighborhood_merge",
            "::net_gradients_kernel<float, int, 4, 8>",
            merge("net"),
        ),
        (
            "neighborhood_merge, gradient of features",
            "neighborhood_merge",
            "::token_gradients_kernel<float, int, 4, 8>",
            merge("tokens"),
        ),
        ("knn, up to 8 neighbors", "knn", "::search_kernel<8>", nearest()),
        ("balanced_clusters, keys", "balanced_clusters", "::patch_keys_kernel", patch_keys()),
    )
]


def cuobjdump() -> str:
    """Return the program's path."""
    path = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if path is None and triton is not None:
        path = shutil.which(Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump")
    if path is None:
        sys.exit("tools/kernel_report.py: cuobjdump: neither on the PATH nor in Triton's package")
    return path


def resources(dump: str) -> dict[int, dict[str, tuple[int, int, int]]]:
    """Return registers, bytes of the stack and bytes of shared memory by capability and kernel.

    Args:
        dump: what ``cuobjdump --dump-resource-usage`` prints, with names that people can read
    """
    found = {}
    pattern = r"arch = sm_(\d+)|Function (.+):\n *REG:(\d+) STACK:(\d+) SHARED:(\d+)"
    for capability, name, *numbers in re.findall(pattern, dump):
        if capability:
            kernels = found.setdefault(int(capability), {})
            systems = SYSTEMS_SHARED if int(capability) >= 90 else 0  # where cuobjdump counts it
        else:
            registers, stack, shared = map(int, numbers)
            kernels[name] = registers, stack, max(0, shared - systems)
    return found


def row(title: str, namespace: str, pattern: str, workload: Workload | None, compiled: dict) -> str:
    """Return the line of a kernel: a number for each architecture in every column."""
    columns = []
    for capability, kernels in compiled.items():
        found = [use for name, use in kernels.items() if re.search(f"::{namespace}{pattern}", name)]
        if not found:
            sys.exit(f"tools/kernel_report.py: {title}: not among the kernels for sm_{capability}")
        registers, stack, shared = found[0]
        architecture = ARCHITECTURES[capability]
        warps = architecture.occupancy(registers, shared)
        times = workload.times(architecture) if workload else [""] * 3
        columns.append([registers, stack, f"{shared / 1024:.0f}", warps, *times])
    cells = (", ".join(filter(None, map(str, column))) for column in zip(*columns, strict=True))
    return f"| {title} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--library", type=Path, default=ROOT / "projects/segcore/_C_cuda13.abi3.so", metavar="FILE"
    )
    options = parser.parse_args(arguments)
    if not options.library.is_file():
        sys.exit(f"tools/kernel_report.py: {options.library}: no such file; make cuda builds it")
    command = [cuobjdump(), "--dump-resource-usage", options.library]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    dump = subprocess.run(["c++filt"], input=dump, capture_output=True, text=True).stdout
    compiled = {
        capability: kernels
        for capability, kernels in sorted(resources(dump).items())
        if capability in ARCHITECTURES
    }
    titles = ["kernel", "registers", "stack", "shared KB", "warps"]
    titles += ["memory us", "cache us", "instructions us"]
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for kernel in KERNELS:
        print(row(*kernel, compiled))


if __name__ == "__main__":
    main()
