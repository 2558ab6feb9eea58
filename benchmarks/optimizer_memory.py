"""Memory of AdamW's state in a process, where SOLVER.SHARDED_OPTIMIZER spreads it over a job.

    python -m benchmarks.optimizer_memory [--config CONFIG ...] [--measure]

Without ``--measure`` the figures are computed from the sizes of the parameters: the largest go
first, each to the process that has the least (``ZeroRedundancyOptimizer``). With it, one step is
taken in two processes, and the bytes of the state are counted there; weights and gradients need as
much memory again, twice.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor, nn

from segcore.config import get_cfg
from segcore.engine import launch
from segcore.solver import build_optimizer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULT = [
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml",
    "coco/panoptic-segmentation/swin/maskformer2_swin_large_IN21k_384_bs16_100ep.yaml",
    "coco/panoptic-segmentation/panoptic_segformer_swin_l_24e.yaml",
]
PROCESSES = (1, 2, 4, 8)
STATE_BYTES = 8  # of a parameter: two moments in float32


def load(name: str, device: str) -> tuple[CfgNode, nn.Module]:
    """Build the model of a config, with weights of zeros and without those of a file."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    return cfg, model if device == "meta" else model.to_empty(device=device)


def computed_mebibytes(model: nn.Module, processes: int) -> float:
    """Return the state of the process that has the most."""
    loads = [0] * processes
    sizes = (p.numel() for p in model.parameters() if p.requires_grad)
    for size in sorted(sizes, reverse=True):
        loads[loads.index(min(loads))] += size
    return max(loads) * STATE_BYTES / 2**20


def measure(name: str) -> None:
    """Take a step with gradients of zeros; print the state's memory in each process."""
    cfg, model = load(name, "cpu")
    cfg.SOLVER.SHARDED_OPTIMIZER = True
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    local = optimizer.optim if dist.is_initialized() else optimizer
    tensors = [v for state in local.state.values() for v in state.values() if isinstance(v, Tensor)]
    state = sum(tensor.nbytes for tensor in tensors) / 2**20
    states = comm.gather(state)
    if comm.is_main_process():
        print(f"{name}, measured in {comm.get_world_size()} processes:", end=" ")
        print(", ".join(f"{value:.0f} MiB" for value in states))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", default=DEFAULT, help="below configs/")
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        for name in arguments.config:
            launch(measure, 2, args=(name,))
        return
    rows = []
    for name in arguments.config:
        _, model = load(name, "meta")
        millions = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
        rows.append([name, millions, *(computed_mebibytes(model, n) for n in PROCESSES)])
    headers = ["config", "parameters, M", *(f"{n} processes, MiB" for n in PROCESSES)]
    print(tabulate(rows, headers, floatfmt=("", ".1f", *[".0f"] * len(PROCESSES))))


if __name__ == "__main__":
    main()
