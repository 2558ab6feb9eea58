"""Start one process a GPU, or several on a CPU, over PyTorch's own launcher and process groups."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

TIMEOUT = timedelta(minutes=30)

logger = logging.getLogger(__name__)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = "auto",
    args: Sequence[Any] = (),
) -> Any:
    """Run ``main_func(*args)`` in every process of a job; call it on each machine of the job.

    The arguments are those of Detectron2's ``launch``. Without a GPU, ``num_gpus_per_machine``
    processes run on the CPU and talk through gloo. In a process that torchrun has started, its
    environment says how many processes there are, and the arguments do not count.

    Args:
        dist_url: address the processes meet at, such as ``tcp://127.0.0.1:8686``; "auto" takes a
            free port of this machine.

    Returns:
        what ``main_func`` returns, where the calling process itself runs it, else None.

    Raises:
        ValueError: more processes than GPUs, or "auto" for several machines.
    """
    if _started_by_torchrun():
        return _run_under_torchrun(main_func, args)
    world_size = num_gpus_per_machine * num_machines
    if world_size <= 1:
        return main_func(*args)
    _require_gpus(num_gpus_per_machine)
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ValueError(
                "dist_url 'auto' works on one machine only; for several, give all of them the "
                "address of the first, such as tcp://192.168.0.1:8686"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    worker_args = (main_func, args, num_gpus_per_machine, world_size, machine_rank, dist_url)
    mp.spawn(_spawned_worker, nprocs=num_gpus_per_machine, args=worker_args)
    return None


def _started_by_torchrun() -> bool:
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def _run_under_torchrun(main_func: Callable[..., Any], args: Sequence[Any]) -> Any:
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1:
        return main_func(*args)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    _require_gpus(local_size)
    return _run_in_group(
        main_func,
        args,
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_size=local_size,
        world_size=world_size,
        init_method="env://",
    )


def _spawned_worker(
    local_rank: int,
    main_func: Callable[..., Any],
    args: Sequence[Any],
    local_size: int,
    world_size: int,
    machine_rank: int,
    dist_url: str,
) -> None:
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        # Processes with a thread a core each would fight for the cores.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    _run_in_group(
        main_func,
        args,
        rank=machine_rank * local_size + local_rank,
        local_rank=local_rank,
        local_size=local_size,
        world_size=world_size,
        init_method=dist_url,
    )


def _run_in_group(
    main_func: Callable[..., Any],
    args: Sequence[Any],
    *,
    rank: int,
    local_rank: int,
    local_size: int,
    world_size: int,
    init_method: str,
) -> Any:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            "nccl" if has_gpu else "gloo",
            init_method=init_method,
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
        )
    except Exception:
        logger.error("rank %d of %d cannot join the job at %s", rank, world_size, init_method)
        raise
    _create_local_process_group(local_size)
    comm.synchronize()
    result = main_func(*args)
    # Only after success: with a failed peer this could wait for ever.
    dist.destroy_process_group()
    return result


def _create_local_process_group(local_size: int) -> None:
    """Tell ``detectron2.utils.comm`` which ranks share a machine; ``get_local_rank`` needs it.

    The one place that knows Detectron2's versions apart: its main has a function for this, while
    in v0.6 nothing but its own CUDA-only launcher sets the variable.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _require_gpus(num_processes: int) -> None:
    available = torch.cuda.device_count()
    if torch.cuda.is_available() and num_processes > available:
        raise ValueError(
            f"{num_processes} processes were asked for on this machine, one a GPU, but it has "
            f"{available} GPU(s); ask for fewer, or hide them (CUDA_VISIBLE_DEVICES=) to train on "
            "the CPU"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
