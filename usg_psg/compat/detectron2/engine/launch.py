"""Start one process per GPU."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from usg_psg.compat import INSTALL_COMMAND, run_worker

from ..utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)`, in this process or in several new ones that form a process group.

    Args:
        main_func: importable by name in a new process.
        num_gpus_per_machine: number of processes; they talk over NCCL, each with its GPU, or over gloo without GPUs.
        num_machines, machine_rank: one machine only; several need Detectron2 itself.
        dist_url: where the processes meet, for example tcp://127.0.0.1:50152; "auto" or None for a free local port.
        timeout: of the processes' communication.
    """
    if num_machines > 1:
        raise RuntimeError(
            f"num_machines is {num_machines}: the bundled engine trains on one machine. Several machines need "
            f"Detectron2 itself, on each of them:\n  {INSTALL_COMMAND}"
        )
    if num_gpus_per_machine <= 1:
        main_func(*args)
        return
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} GPUs are asked for, this machine has {torch.cuda.device_count()}")
    if dist_url in (None, "auto"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(
        run_worker,
        args=(num_gpus_per_machine, dist_url, timeout, main_func, args),
        nprocs=num_gpus_per_machine,
    )


def distributed_worker(
    rank: int, world_size: int, dist_url: str, timeout: timedelta, main_func: Callable[..., Any], args: tuple
) -> None:
    """Join the process group, call the function, leave the group."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if has_gpu else "gloo", init_method=dist_url, world_size=world_size, rank=rank, timeout=timeout
    )
    comm.create_local_process_group(world_size)
    comm.synchronize()
    main_func(*args)
    comm.synchronize()  # a process that leaves early closes connections that others may still be reading from
    dist.destroy_process_group()
