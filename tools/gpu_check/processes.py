"""Two processes, each with a photo of its own, train the default system under
DistributedDataParallel, over nccl with two GPUs: the gradients must be finite and the same in both,
to the last bit. On the CPU the same over gloo."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tools.gpu_check.results import Check, Unavailable, check

PROCESSES = 2


def run(device: str) -> Iterator[Check]:
    backend = "nccl" if device == "cuda" else "gloo"
    yield check(f"two processes, {backend}", lambda: _train_in_processes(device, backend))


def _train_in_processes(device: str, backend: str) -> str:
    if device == "cuda" and torch.cuda.device_count() < PROCESSES:
        raise Unavailable("needs two GPUs")
    import detectron2  # noqa: F401  (its absence is said here, not by a process that fails)

    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_train, args=(device, backend, folder), nprocs=PROCESSES)
        norms = [Path(folder, str(rank)).read_text() for rank in range(PROCESSES)]
    assert len(set(norms)) == 1, f"gradient norms {norms}"
    return f"gradients equal, norm {norms[0]}"


def _train(rank: int, device: str, backend: str, folder: str) -> None:
    from segcore.config import load_projects
    from segcore.quickstart import default_system
    from tools.gpu_check.training import build

    store = f"file://{folder}/store"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=PROCESSES)
    if device == "cuda":
        torch.cuda.set_device(rank)
        device = f"cuda:{rank}"
    load_projects()
    model, photo = build(default_system())
    photo["image"] = photo["image"].roll(50 * rank, -1)
    ids = [rank] if backend == "nccl" else None
    model = DistributedDataParallel(model.to(device), ids)
    sum(model([photo]).values()).backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    all_grads = [torch.empty_like(grads) for _ in range(PROCESSES)]
    dist.all_gather(all_grads, grads)
    assert grads.isfinite().all(), "a gradient is not finite"
    assert torch.equal(*all_grads), "the gradients of the processes differ"
    Path(folder, str(rank)).write_text(f"{float(grads.norm()):.6g}")
    dist.destroy_process_group()
