"""Data sets by name, lists as data sets, and the loader of test data."""

from __future__ import annotations

import pickle
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from usg_psg.compat import new_instance

from ..config import CfgNode, configurable
from ..utils import comm
from . import transforms  # noqa: F401  `detectron2.data.transforms` is reached as an attribute too

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "Metadata",
    "MetadataCatalog",
    "build_detection_test_loader",
    "get_detection_dataset_dicts",
]


class Metadata(SimpleNamespace):
    """Facts about a data set as attributes; an attribute can be set again only to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = sorted(self.__dict__)
        raise AttributeError(
            f"Attribute {key!r} does not exist in the metadata of dataset {self.name!r}; it has {known}"
        )

    def __setattr__(self, key: str, val: Any) -> None:
        old = self.__dict__.get(key, val)
        if old != val:
            raise AssertionError(f"metadata {key!r} of dataset {self.name!r} is {old!r} and cannot become {val!r}")
        super().__setattr__(key, val)

    def set(self, **kwargs: Any) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return list(self.data)

    def remove(self, name: str) -> None:
        self.data.pop(name)


class _DatasetCatalog(_Catalog):
    """From a data set's name to the function that loads its list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        if name in self.data:
            raise AssertionError(f"Dataset {name!r} is already registered")
        self.data[name] = func

    def get(self, name: str) -> list[dict]:
        if name not in self.data:
            raise KeyError(f"Dataset {name!r} is not registered; available are {', '.join(self.data)}")
        return self.data[name]()


class _MetadataCatalog(_Catalog):
    def get(self, name: str) -> Metadata:
        return self.data.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()


class _WorkerReady(Dataset):
    """Lets loader workers that start as fresh processes find this package before they unpickle a data set."""

    def __reduce__(self) -> tuple:
        return new_instance, (type(self).__module__, type(self).__qualname__), self.__dict__


class DatasetFromList(_WorkerReady):
    """A list whose pickled elements are in one tensor, which worker processes share instead of copying."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True):
        if not serialize:
            raise NotImplementedError("serialize=False: install Detectron2 for it")
        pickled = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = torch.from_numpy(np.cumsum([len(each) for each in pickled], dtype=np.int64))
        self._items = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *pickled]))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        start = 0 if idx == 0 else self._ends[idx - 1].item()
        return pickle.loads(memoryview(self._items[start : self._ends[idx].item()].numpy()))


class _MappedDataset(_WorkerReady):
    def __init__(self, dataset: Dataset, mapper: Callable[[Any], Any]):
        self._dataset = dataset
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        mapped = self._mapper(self._dataset[idx])
        if mapped is None:
            raise ValueError(f"the mapper returned None for element {idx}: an evaluation leaves no image out")
        return mapped


def _own_share(size: int) -> range:
    """A contiguous part of all indices for each process, the first ones an index longer where they are not equal."""
    rank = comm.get_rank()
    share, longer = divmod(size, comm.get_world_size())
    begin = rank * share + min(rank, longer)
    return range(begin, begin + share + (rank < longer))


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | Dataset:
    """Load registered data sets into one list, or, if the first is a torch Dataset, into one Dataset.

    filter_empty and check_consistency concern dicts with `annotations`, which are refused here.
    """
    if min_keypoints or proposal_files is not None:
        raise NotImplementedError("min_keypoints and proposal_files: install Detectron2 for them")
    names = [names] if isinstance(names, str) else list(names)
    parts = {name: DatasetCatalog.get(name) for name in names}
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise ValueError(f"Dataset {empty[0]!r} is empty")
    first = parts[names[0]]
    if isinstance(first, Dataset):
        return first if len(names) == 1 else ConcatDataset([parts[name] for name in names])
    dicts = [each for name in names for each in parts[name]]
    if any("annotations" in each for each in dicts):
        raise ValueError(f"datasets {names}: dicts with `annotations` need Detectron2 itself")
    return dicts


def _test_loader_from_config(cfg: CfgNode, dataset_name: str | list[str], mapper: Callable[[dict], Any]) -> dict:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {"dataset": dataset, "mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable[[dict], Any],
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """A loader of this process's share of the test data, in order; also called as (cfg, dataset_name, mapper=)."""
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    return DataLoader(
        _MappedDataset(dataset, mapper),
        batch_size=batch_size,
        sampler=_own_share(len(dataset)) if sampler is None else sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or _as_list,
    )


def _as_list(batch: list) -> list:
    return batch
