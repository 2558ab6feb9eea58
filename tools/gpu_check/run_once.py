"""Run every operator once at its smaller sizes: a program for tools that watch kernels.

python -m tools.gpu_check.run_once cuda
"""

import sys

import torch

from segcore import ops
from tools.gpu_check import cases


def main(device: str) -> None:
    """Run forward and backward in float32 and float16."""
    for name, sizes in cases.SIZES.items():
        for options in sizes[:2]:
            for dtype in (torch.float32, torch.float16):
                arguments = cases.make_arguments(name, dtype, device, **options)
                cases.run(cases.operator(name), arguments)
    tokens = cases.operator_inputs.tokens_on_canvas(20, 30, 200).to(device)
    ops.knn(tokens, tokens, 5)
    ops.balanced_clusters(tokens, 8, (20, 30))
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
