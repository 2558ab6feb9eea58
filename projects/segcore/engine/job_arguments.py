"""Checks of the arguments of a job, before any process waits for another."""

import socket
from urllib.parse import urlsplit

import torch

from segcore.errors import ConfigError, UserError


def check_counts(num_gpus_per_machine: int, num_machines: int, machine_rank: int) -> None:
    """Raise a ConfigError if the numbers of processes, machines and of this machine do not fit."""
    if num_gpus_per_machine < 0:
        raise ConfigError(f"--num-gpus: expected 0 (the CPU) or more, got {num_gpus_per_machine}")
    if num_machines < 1:
        raise ConfigError(f"--num-machines: expected 1 or more, got {num_machines}")
    if num_machines > 1 and num_gpus_per_machine == 0:
        raise ConfigError(
            f"--num-gpus 0 is for one machine, but --num-machines is {num_machines}; give the "
            "number of processes of each machine"
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank: expected 0 to {num_machines - 1} for --num-machines {num_machines}, "
            f"got {machine_rank}"
        )


def check_address(dist_url: str, listens: bool) -> None:
    """Refuse addresses that would make PyTorch wait for its timeout of 30 minutes.

    Args:
        listens: this machine is the one that the others connect to.

    Raises:
        ConfigError: the address is malformed.
        UserError: it cannot be resolved, or its port cannot be used.
    """
    expected = "expected auto, or an address such as tcp://127.0.0.1:8686"
    try:
        url = urlsplit(dist_url)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigError(f"--dist-url {dist_url}: {error}; {expected}") from error
    if url.scheme in ("file", "env"):
        return
    if url.scheme != "tcp" or not host or not port:
        raise ConfigError(f"--dist-url {dist_url}: {expected}")
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--dist-url {dist_url}: {host} cannot be resolved: {error}") from error
    if listens:
        _check_port(dist_url, port)


def _check_port(dist_url: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--dist-url {dist_url}: port {port} cannot be used: {error.strerror}. Another "
                "job, or what is left of one? --dist-url auto takes a free port"
            ) from error


def require_gpus(num_processes: int) -> None:
    """Raise a ConfigError if this machine has GPUs, but fewer than processes."""
    available = torch.cuda.device_count()
    if torch.cuda.is_available() and num_processes > available:
        raise ConfigError(
            f"{num_processes} processes were asked for on this machine, one a GPU, but it has "
            f"{available} GPU(s); ask for fewer, or hide them (CUDA_VISIBLE_DEVICES=) to train on "
            "the CPU"
        )


def free_port() -> int:
    """Return a TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
