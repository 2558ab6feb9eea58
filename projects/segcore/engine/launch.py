"""Start one process a GPU, or several on a CPU, over PyTorch's own launcher and process groups."""

import gc
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from segcore.engine.job_arguments import check_address, check_counts, free_port, require_gpus
from segcore.errors import ConfigError, UserError
from segcore.loggers import without_warnings_of
from segcore.program import PEER_GRACE, LostConnectionError, explain

TIMEOUT = timedelta(minutes=30)
TERMINATED = 128 + signal.SIGTERM  # exit code, as in a shell
SECONDS_TO_END = 5


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
    processes run on the CPU with the gloo backend. In a process of torchrun, the number of
    processes comes from its environment, and the arguments are ignored.

    Args:
        dist_url: address the processes meet at, such as ``tcp://127.0.0.1:8686``; "auto" takes a
            free port of this machine.

    All processes end when one fails, and when the calling one is interrupted or terminated.

    Returns:
        The result of ``main_func`` if the calling process itself runs it, else None.

    Raises:
        ConfigError: counts are out of range, there are more processes than GPUs, the address is
            malformed, or "auto" for several machines.
        UserError: the address cannot be resolved or is in use; a process was killed; or the error
            of the first process that failed, if :func:`segcore.program.explain` knows it.
        torch.multiprocessing.ProcessRaisedException: another exception of a process.
    """
    _allow_open_files()
    if _started_by_torchrun():
        return _run_under_torchrun(main_func, args)
    check_counts(num_gpus_per_machine, num_machines, machine_rank)
    world_size = num_gpus_per_machine * num_machines
    if world_size <= 1:
        return main_func(*args)
    require_gpus(num_gpus_per_machine)
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ConfigError(
                "--dist-url auto works on one machine only; for several, give all of them the "
                "address of the first, such as tcp://192.168.0.1:8686"
            )
        dist_url = f"tcp://127.0.0.1:{free_port()}"
    else:
        check_address(dist_url, listens=machine_rank == 0)
    worker_args = (main_func, args, num_gpus_per_machine, world_size, machine_rank, dist_url)
    _run_processes(num_gpus_per_machine, worker_args)
    return None


def _allow_open_files() -> None:
    """Raise the soft limit of open files: each tensor from a loader worker is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run_processes(count: int, worker_args: tuple) -> None:
    """Run ``_spawned_worker`` in processes, all of which have ended on return."""
    errors = mp.get_context("spawn").SimpleQueue()
    with _exit_when_terminated(), without_warnings_of("torch.multiprocessing.spawn"):
        try:
            processes = mp.spawn(_spawned_worker, (errors, *worker_args), count, join=False)
            while not processes.join():
                pass
        except mp.ProcessExitedException as failure:
            if failure.exit_code == -signal.SIGINT:  # Ctrl-C reaches all processes at once
                raise KeyboardInterrupt from None
            raise UserError(_killed_message(failure)) from failure
        except mp.ProcessRaisedException as failure:
            while not errors.empty():
                local_rank, error = errors.get()
                if local_rank == failure.error_index:
                    raise error from failure
            raise
        finally:
            _end(multiprocessing.active_children())


def _killed_message(failure: mp.ProcessExitedException) -> str:
    process = f"process {failure.error_index} of this job (pid {failure.error_pid})"
    if failure.exit_code >= 0:
        return f"{process} ended with exit code {failure.exit_code}"
    advice = ""
    if -failure.exit_code == signal.SIGKILL:
        advice = ": out of memory? Then lower SOLVER.IMS_PER_BATCH or DATALOADER.NUM_WORKERS"
    return f"{process} was killed by signal {-failure.exit_code} ({failure.signal_name}){advice}"


@contextmanager
def _exit_when_terminated() -> Iterator[None]:
    """Turn SIGTERM, which would leave the other processes behind, into SystemExit."""

    def end(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread, the only one that gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        process.kill()


def _started_by_torchrun() -> bool:
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def _run_under_torchrun(main_func: Callable[..., Any], args: Sequence[Any]) -> Any:
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1:
        return main_func(*args)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    require_gpus(local_size)
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
    errors: multiprocessing.SimpleQueue,
    main_func: Callable[..., Any],
    args: Sequence[Any],
    local_size: int,
    world_size: int,
    machine_rank: int,
    dist_url: str,
) -> None:
    # PyTorch has the kernel send SIGINT when the launcher dies. It must end this process even while
    # it waits for others, when Python handles no signals, and under nohup, which ignores SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        # By default each process would use a thread for every core.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    try:
        _run_in_group(
            main_func,
            args,
            rank=machine_rank * local_size + local_rank,
            local_rank=local_rank,
            local_size=local_size,
            world_size=world_size,
            init_method=dist_url,
        )
    except Exception as error:
        known = explain(error)
        if known is not None:
            errors.put((local_rank, known))
        if isinstance(known, LostConnectionError):
            # The process that failed first must reach the launcher first.
            time.sleep(PEER_GRACE)
        raise


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
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"process {rank} of {world_size} cannot join the job at {init_method}: {reason}"
        ) from error
    _create_local_process_group(local_size)
    comm.synchronize()
    result = main_func(*args)
    # Only after success: with a failed peer this could wait forever.
    _leave_group()
    return result


def _leave_group() -> None:
    """Close the connections of this process and wait for their threads to end.

    PyTorch waits for them when nothing refers to the process group any more. A thread that is still
    at work when the interpreter ends can abort the process, as it cannot get Python's lock.
    """
    # Together, as closing connections that others use can end in an abort, too.
    comm.synchronize()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()
    gc.collect()  # DistributedDataParallel, which is part of reference cycles


def _create_local_process_group(local_size: int) -> None:
    """Tell ``detectron2.utils.comm`` which ranks share a machine; ``get_local_rank`` needs it.

    Detectron2's main branch has a function for this; in v0.6 only its CUDA launcher sets the
    variable.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, dist.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
