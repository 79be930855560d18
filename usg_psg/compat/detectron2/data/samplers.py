"""Which images a process sees, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from ..utils import comm

__all__ = ["InferenceSampler", "TrainingSampler"]


class TrainingSampler(Sampler):
    """Endless indices: one permutation of the data set after the other, dealt out to the processes in turn.

    Args:
        size: of the data set.
        shuffle: False repeats the data set in order.
        seed: of the permutations, equal in all processes; None agrees on a random one.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler size must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"TrainingSampler size must be positive, got {size}")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class InferenceSampler(Sampler):
    """Every index once: each process gets a contiguous part, the first ones an index more if it does not divide evenly.

    Args:
        size: of the data set.
    """

    def __init__(self, size: int):
        if size <= 0:
            raise ValueError(f"InferenceSampler size must be positive, got {size}")
        rank, world_size = comm.get_rank(), comm.get_world_size()
        share, longer = divmod(size, world_size)
        begin = rank * share + min(rank, longer)
        self._local_indices = range(begin, begin + share + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
