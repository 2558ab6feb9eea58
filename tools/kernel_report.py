#!/usr/bin/env python3
"""Registers, occupancy and estimated times of the main CUDA kernels, without a GPU.

    python tools/kernel_report.py [--architectures 80 90] [--sources csrc/cuda]

Compiles the kernels with nvcc and prints a Markdown table of what ptxas says of them, beside the
least time that memory and first-level cache need for a workload; nothing is measured.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
FLAGS += ["--expt-relaxed-constexpr", "-cubin", "--ptxas-options=-v"]
WARPS_OF_BLOCK = 8
LINE = 128  # bytes that the first-level cache of a multiprocessor, or its exchanges, move per clock


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
            blocks.append(self.shared_memory // (shared + 1024))  # 1 KB a block is the system's
        return min(blocks) * WARPS_OF_BLOCK


ARCHITECTURES = {
    80: Architecture("A100", 108, 1.41e9, 1.7e12, 164 << 10),
    90: Architecture("H200", 132, 1.98e9, 4.3e12, 228 << 10),
}


@dataclass(frozen=True)
class Workload:
    """Traffic of one launch: bytes that device memory has to move at least; rows of channels that
    pass the first-level cache; shuffles and accesses to shared memory of all warps."""

    memory: float
    rows: float
    exchanges: float

    def times(self, architecture: Architecture) -> tuple[float, float]:
        """Return the microseconds that memory and cache need."""
        cache = architecture.multiprocessors * architecture.clock * LINE
        traffic = self.rows + LINE * self.exchanges
        return self.memory / architecture.bandwidth * 1e6, traffic / cache * 1e6


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


def cluster(size: int, part: str) -> Workload:
    """Stage 1 of AFF-Tiny on a 512x512 image: 6 clusters of 8 tokens."""
    tokens, heads, channels, members = 16384, 2, 32, 48
    warps, lanes = tokens * heads, channels * size // 16
    tensor = tokens * heads * channels * size
    rows = warps * members * channels * size
    groups, vector = 32 // lanes, 16 // size
    chunks = -(-members // 32)
    steps = -(-members // groups)
    dots = steps + chunks * (lanes - 1)  # a member each, and their sums
    sums = (lanes.bit_length() - 1, 5 - (lanes.bit_length() - 1))
    add = 2 * steps + sums[1] * vector
    if part == "forward":
        return Workload(4 * tensor, 2 * rows, warps * (dots + 5 * chunks + add + 5))
    if part == "queries":
        return Workload(5 * tensor, 3 * rows, warps * (2 * dots + 5 * chunks + add + 8 * 5))
    if part == "keys":
        return Workload(6 * tensor, 4 * rows, warps * (2 * dots + 2 * add))
    sums_of_tokens = tokens * heads * 40
    return Workload(2 * tensor + sums_of_tokens, 2 * tensor, 0)


# Title, source, kernel as ptxas has it (groups of an optional type of offsets), workload.
KERNELS = [
    (f"{title}, {short}", source, pattern.format(kind), workload(size))
    for kind, short, size in (("float", "float32", 4), ("c10::Half", "float16", 2))
    for title, source, pattern, workload in (
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
            "ms_deform_attn_with_logits",
            rf"::forward_kernel<{{}}, \S*LogitSamples<\S+>, int, {16 // size}, {2 * size}>",
            lambda size: deformable(size, backward=False, with_logits=True),
        ),
        (
            "MSDeformAttn with logits backward",
            "ms_deform_attn_with_logits",
            r"::backward_kernel<{}, \S*LogitSamples<\S+>, int, 4, 8>",
            lambda size: deformable(size, backward=True, with_logits=True),
        ),
        (
            "cluster attention forward",
            "cluster_attention",
            rf"::forward_kernel<{{}}, (int, {16 // size}, {2 * size}|{16 // size})>",
            lambda size: cluster(size, "forward"),
        ),
        (
            "cluster attention, gradient of queries",
            "cluster_attention",
            rf"::backward_queries_kernel<{{}}, (int, {16 // size}, {2 * size}|{16 // size})>",
            lambda size: cluster(size, "queries"),
        ),
        (
            "cluster attention, gradient of keys and values",
            "cluster_attention",
            rf"::backward_keys_kernel<{{}}, (int, {16 // size}, {2 * size}|{16 // size})>",
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
# The others at a row of 32 numbers, without an estimate.
KERNELS += [
    (f"{title}, float32", source, pattern, None)
    for title, source, pattern in (
        ("MSDeformAttn, deterministic", "ms_deform_attn", "::value_gradients_kernel<float, 4, 8>"),
        ("point_deform_attn forward", "point_deform_attn", "::forward_kernel<float, 4, 8>"),
        ("point_deform_attn backward", "point_deform_attn", "::backward_kernel<float, 4, 8>"),
        (
            "point_deform_attn, deterministic",
            "point_deform_attn",
            "::value_gradients_kernel<float, 4, 8>",
        ),
        ("point_gather forward", "point_gather", "::forward_kernel<float, 4, 8>"),
        (
            "point_gather, gradient of weights",
            "point_gather",
            "::weight_gradients_kernel<float, 4, 8>",
        ),
        (
            "point_gather, gradient of features",
            "point_gather",
            "::feature_gradients_kernel<float, 4, 8>",
        ),
        ("neighborhood_merge forward", "neighborhood_merge", "::forward_kernel<float, 4, 8>"),
        (
            "neighborhood_merge, gradient of weights",
            "neighborhood_merge",
            "::net_gradients_kernel<float, 4, 8>",
        ),
        (
            "neighborhood_merge, gradient of features",
            "neighborhood_merge",
            "::token_gradients_kernel<float, 4, 8>",
        ),
        ("knn, up to 8 neighbors", "knn", "::search_kernel<8>"),
        ("balanced_clusters, keys", "balanced_clusters", "::patch_keys_kernel"),
    )
]


def resources(source: Path, capability: int) -> dict[str, tuple[int, int, int]]:
    """Return registers, spilled bytes and bytes of shared memory by name of the kernel."""
    includes = [f"-I{path}" for path in include_paths()]
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *FLAGS, *includes, f"-arch=sm_{capability}", source]
        run = subprocess.run(
            [*command, "-o", Path(folder, "kernels.cubin")], capture_output=True, text=True
        )
    if run.returncode != 0:
        sys.exit(f"tools/kernel_report.py: {source}: {run.stderr.strip().splitlines()[-1]}")
    names = subprocess.run(["c++filt"], input=run.stderr, capture_output=True, text=True).stdout
    pattern = (
        r"entry function '(.+?)' for.*?(\d+) bytes spill stores.*?Used (\d+) registers([^\n]*)"
    )
    found = {}
    for name, spills, registers, rest in re.findall(pattern, names, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = (int(registers), int(spills), int(shared[1]) if shared else 0)
    return found


def row(title: str, source: str, pattern: str, workload: Workload | None, compiled: dict) -> str:
    """Return the line of a kernel: a number for each architecture in every column."""
    columns = []
    namespace = source.removesuffix("_with_logits")  # whose kernels serve both operators
    for capability, kernels in compiled.items():
        found = [use for name, use in kernels.items() if re.search(f"::{namespace}{pattern}", name)]
        if not found:
            sys.exit(f"tools/kernel_report.py: {title}: not among the kernels of {source}.cu")
        registers, spills, shared = found[0]
        architecture = ARCHITECTURES[capability]
        warps = architecture.occupancy(registers, shared)
        times = workload.times(architecture) if workload else ()
        columns.append([registers, spills, f"{shared / 1024:.0f}", warps])
        columns[-1] += [f"{time:.1f}" for time in times] or ["", ""]
    cells = (", ".join(filter(None, map(str, column))) for column in zip(*columns, strict=True))
    return f"| {title} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--architectures", type=int, nargs="+", default=[80, 90], choices=ARCHITECTURES
    )
    parser.add_argument("--sources", type=Path, default=ROOT / "csrc" / "cuda", metavar="FOLDER")
    options = parser.parse_args(arguments)
    for tool in ("nvcc", "c++filt"):
        if shutil.which(tool) is None:
            sys.exit(f"tools/kernel_report.py: {tool} is not on the PATH")
    compiled = {}
    for capability in options.architectures:
        compiled[capability] = {}
        for source in sorted({source for _, source, _, _ in KERNELS}):
            file = options.sources / f"{source}.cu"
            compiled[capability] |= resources(file, capability)
    print("| kernel | registers | spills | shared KB | warps | memory us | cache us |")
    print("|---|---|---|---|---|---|---|")
    for kernel in KERNELS:
        print(row(*kernel, compiled))


if __name__ == "__main__":
    main()
