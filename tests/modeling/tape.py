"""Stands in for CUDA graphs on the CPU: operators are written down with the very tensors they met, and run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operator(*args, **kwargs)
        self.entries.append((operator, args, kwargs, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Run every operator on the present contents of its arguments; results go where they went."""
        for operator, args, kwargs, out in self.entries:
            for old, new in zip(tree_leaves(out), tree_leaves(operator(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.detach().copy_(new)


class TapeRecorder:
    """The interface of `CudaRecorder`."""

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        with torch.random.fork_rng([]):
            yield

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        with torch.random.fork_rng([]), _Tape() as tape:  # to record does nothing on a GPU, so it draws nothing
            result = function()
        return result, tape.replay
