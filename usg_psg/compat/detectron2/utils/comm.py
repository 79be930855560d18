"""Communication between the processes of a job; every function also works in a single process."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

__all__ = [
    "all_gather", "create_local_process_group", "gather", "get_local_rank", "get_rank", "get_world_size",
    "is_main_process", "shared_random_seed", "synchronize",
]  # fmt: skip

_local_group: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of the job."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """This process's number within the job, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this is process 0."""
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the processes of one machine; all processes of the job call it, after init_process_group.

    Args:
        num_workers_per_machine: processes per machine; divides the world size.
    """
    global _local_group
    world_size = get_world_size()
    if world_size % num_workers_per_machine != 0:
        raise ValueError(f"num_workers_per_machine {num_workers_per_machine} does not divide {world_size} processes")
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)  # collective: every process creates every group
        if get_rank() in ranks:
            _local_group = group


def get_local_rank() -> int:
    """This process's number on its machine, from 0; RuntimeError before `create_local_process_group`."""
    if not _is_distributed():
        return 0
    if _local_group is None:
        raise RuntimeError("call comm.create_local_process_group(processes per machine) after init_process_group")
    return dist.get_rank(group=_local_group)


def synchronize() -> None:
    """Wait for all processes."""
    if get_world_size() == 1:
        return
    on_gpu = dist.get_backend() == dist.Backend.NCCL
    dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _cpu_group() -> dist.ProcessGroup:
    # Objects travel over gloo, so that gathering them takes no GPU memory.
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect one picklable object from every process; all get the objects, by rank."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect one picklable object from every process: dst gets the objects, by rank, others an empty list."""
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    gathered: list[Any] | None = [None] * dist.get_world_size(group) if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return [] if gathered is None else gathered


def shared_random_seed() -> int:
    """A random number that is the same in all processes, which call this together."""
    return all_gather(np.random.randint(2**31))[0]
