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

_processes_per_machine: int | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Called by all processes of the job after init_process_group, for `get_local_rank`."""
    global _processes_per_machine
    _processes_per_machine = num_workers_per_machine


def get_local_rank() -> int:
    if not _is_distributed():
        return 0
    if _processes_per_machine is None:
        raise RuntimeError("call comm.create_local_process_group(processes per machine) after init_process_group")
    return get_rank() % _processes_per_machine


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
    return gathered or []


def shared_random_seed() -> int:
    """A random number that is the same in all processes, which call this together."""
    return all_gather(np.random.randint(2**31))[0]
