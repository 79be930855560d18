"""Running on when a GPU's memory is full."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["retry_if_cuda_oom"]


def retry_if_cuda_oom(func: Callable) -> Callable:
    """Make a function try again when the GPU runs out of memory: with an emptied cache, then on the CPU.

    For the last attempt tensors among the arguments (not inside containers) are moved to the CPU, and so may be the
    results. The function must be free of side effects.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
        logging.getLogger(__name__).warning("%s: out of GPU memory, running on the CPU", func.__qualname__)
        return func(*map(_to_cpu, args), **{key: _to_cpu(value) for key, value in kwargs.items()})

    return wrapped


def _to_cpu(value: Any) -> Any:
    on_gpu = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if on_gpu else value
