"""Data sets of lists and mapped data sets, and the grouping of images by shape."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from usg_psg.compat import new_instance

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class _WorkerReady:
    """Lets loader workers that start as fresh processes find this package before they unpickle a data set."""

    def __reduce__(self) -> tuple:
        return new_instance, (type(self).__module__, type(self).__qualname__), self.__dict__


class DatasetFromList(_WorkerReady, Dataset):
    """A list as a data set.

    Args:
        lst: the elements.
        copy: give out deep copies (serialised elements are new each time anyway).
        serialize: keep pickled elements in one tensor, which worker processes share instead of copying.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable = True):
        self._copy = copy
        if callable(serialize):
            lst, serialize = serialize(lst), False
        self._serialized = bool(serialize)
        if not self._serialized:
            self._items = lst
            return
        pickled = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = torch.from_numpy(np.cumsum([len(each) for each in pickled], dtype=np.int64))
        self._items = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *pickled]))
        logger.info("Serialized %d elements into %.2f MiB", len(lst), len(self._items) / 2**20)

    def __len__(self) -> int:
        return len(self._ends if self._serialized else self._items)

    def __getitem__(self, idx: int) -> Any:
        if not self._serialized:
            return copy.deepcopy(self._items[idx]) if self._copy else self._items[idx]
        start = 0 if idx == 0 else self._ends[idx - 1].item()
        return pickle.loads(memoryview(self._items[start : self._ends[idx].item()].numpy()))


class MapDataset(_WorkerReady, Dataset):
    """A data set with a function applied to each element.

    Args:
        dataset: indexable, with a length.
        map_func: from an element to what is given out; None skips the element, another one is drawn at random instead.
    """

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], Any]):
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        index = int(idx)
        while (mapped := self._map_func(self._dataset[index])) is None:
            self._skipped.add(index)
            others = [other for other in range(len(self)) if other not in self._skipped]
            if not others:
                raise ValueError(f"the map function returned None for all {len(self)} elements")
            index = self._rng.choice(others)
            logger.warning("element %d was skipped by the map function, trying %d instead", idx, index)
        self._skipped.discard(index)
        return mapped


class ToIterableDataset(_WorkerReady, IterableDataset):
    """A data set read in the order of a sampler inside the loader's workers, so that the sampler may be endless.

    Args:
        dataset: indexable.
        sampler: gives indices; the same in each worker.
        shard_sampler: deal the indices out to the workers; False if the sampler does so itself.
        shard_chunk_size: how many consecutive indices a worker gets at a time.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1):
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        count, mine = (worker.num_workers, worker.id) if worker and self.shard_sampler else (1, 0)
        for position, index in enumerate(self.sampler):
            if position // self.shard_chunk_size % count == mine:
                yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(IterableDataset):
    """Batches whose images are all wide or all not wide, so that they need little padding.

    Args:
        dataset: gives dicts with `width` and `height`, one at a time.
        batch_size: images per batch.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._waiting: dict[bool, list[dict]] = {True: [], False: []}

    def __iter__(self) -> Iterator[list[dict]]:
        for element in self.dataset:
            is_wide = element["width"] > element["height"]
            self._waiting[is_wide].append(element)
            if len(self._waiting[is_wide]) == self.batch_size:
                batch, self._waiting[is_wide] = self._waiting[is_wide], []
                yield batch
