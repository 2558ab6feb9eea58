#!/usr/bin/env python3
"""Registers, stack (spills) and shared memory of the Triton kernels, compiled without a GPU.

    python tools/triton_report.py [--architectures 80 90] [--types float32 float16]

For heads of 32 channels, 3 levels of 4 points, and 6 clusters of 8. Warps: what the registers and
shared memory of a multiprocessor hold, of 64.
"""

import argparse
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
import triton
from tabulate import tabulate
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from segcore.ops import ClusterNeighborhood
from segcore.ops._triton import cluster_attention, ms_deform_attn

REGISTERS = 65536
SHARED_BYTES = {80: 164 * 1024, 90: 228 * 1024}
RESERVED_BYTES = 1024  # of shared memory, a program
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Device:
    """The driver of a GPU that is not here, as far as Triton asks it before it runs a kernel."""

    def __init__(self, architecture: int):
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


def compile_kernels(architecture: int, dtype: torch.dtype) -> list:
    """Return the kernels that the operators launch, compiled; the process can run none any more."""
    kernels, run = [], JITFunction.run

    def compile_only(self, *args, warmup, **kwargs):
        kernels.append(run(self, *args, warmup=True, **kwargs))

    driver.set_active(Device(architecture))
    with patch.object(JITFunction, "run", compile_only):
        call_operators(dtype)
    return kernels


def call_operators(dtype: torch.dtype) -> None:
    """Run both operators and their gradients on small tensors."""
    locations = torch.rand(1, 16, 8, 3, 4, 2)
    arguments = (torch.rand(1, 336, 8, 32).to(dtype), [16] * 2 + [8] * 2 + [4] * 2, locations)
    output = ms_deform_attn.ms_deform_attn(*arguments, locations[..., 0])
    ms_deform_attn.ms_deform_attn_backward(output, *arguments, locations[..., 0])
    q = torch.rand(1, 64, 2, 32).to(dtype)
    neighborhood = ClusterNeighborhood(torch.arange(6).expand(1, 64, 6), 8)
    position, weight, blank = torch.rand(1, 64, 2), torch.rand(2, 5), torch.rand(64)
    arguments = (q, q, q, position, neighborhood.clusters, 8, weight, weight[:, 0], blank, blank)
    arguments = (*arguments, 0.2, *neighborhood.inverse_lists())
    output = cluster_attention.cluster_attention(*arguments)
    cluster_attention.cluster_attention_backward(output, *arguments)


def resources(kernel) -> tuple[int, int, int]:
    """Return registers and bytes of stack of a lane, and bytes of shared memory of a program."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        command = [CUOBJDUMP, "--dump-resource-usage", file]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", text).groups())
    return registers, stack, kernel.metadata.shared


def warps_of_multiprocessor(architecture: int, registers: int, shared: int, warps: int) -> int:
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    by_shared = SHARED_BYTES[architecture] // (shared + RESERVED_BYTES)
    return min(by_registers, by_shared, 32, 64 // warps) * warps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90], choices=[80, 90])
    parser.add_argument("--types", nargs="+", default=["float32", "float16"])
    arguments = parser.parse_args()
    rows = []
    for architecture in arguments.architectures:
        for name in arguments.types:
            for kernel in compile_kernels(architecture, getattr(torch, name)):
                file = Path(kernel.src.fn.fn.__code__.co_filename).stem
                warps = kernel.metadata.num_warps
                registers, stack, shared = resources(kernel)
                resident = warps_of_multiprocessor(architecture, registers, shared, warps)
                label = f"{file}.{kernel.name}"
                row = [label, f"sm_{architecture}", name, registers, stack, shared, resident]
                rows.append(row)
    header = ["kernel", "GPU", "type", "registers", "stack bytes", "shared bytes", "warps"]
    print(f"Triton {triton.__version__}\n")
    print(tabulate(rows, header, tablefmt="github"))


if __name__ == "__main__":
    main()
