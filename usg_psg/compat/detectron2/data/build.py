"""Loaders of training and test data."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from ..config import CfgNode, configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .samplers import InferenceSampler, TrainingSampler

__all__ = ["build_detection_test_loader", "build_detection_train_loader", "get_detection_dataset_dicts"]

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | Dataset:
    """Load registered data sets into one list, or, if the first is a torch Dataset, into one Dataset.

    Args:
        names: one or several data sets.
        filter_empty: drop images with `annotations` of which none is a non-crowd one; images without that key stay.
        min_keypoints, proposal_files: not supported here, must keep their defaults.
        check_consistency: data sets with `annotations` must have equal `thing_classes`.

    Raises:
        KeyError: if a data set is not registered.
        ValueError: if one is empty, nothing is left, or class names differ.
    """
    if min_keypoints or proposal_files is not None:
        raise NotImplementedError("min_keypoints and proposal_files: install Detectron2 for them")
    names = [names] if isinstance(names, str) else list(names)
    parts = [DatasetCatalog.get(name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if not len(part):
            raise ValueError(f"Dataset {name!r} is empty")
    if isinstance(parts[0], Dataset):
        # Made on demand: never all in memory at once.
        return parts[0] if len(parts) == 1 else ConcatDataset(parts)
    dicts = [each for part in parts for each in part]
    if dicts and "annotations" in dicts[0]:
        if filter_empty:
            dicts = [each for each in dicts if any(a.get("iscrowd", 0) == 0 for a in each["annotations"])]
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if check_consistency and any(each != classes[0] for each in classes):
            raise ValueError(f"datasets {names} have different thing_classes")
    if not dicts:
        raise ValueError(f"no image is left in datasets {names}")
    return dicts


def _train_loader_from_config(
    cfg: CfgNode,
    mapper: Callable[[dict], Any] | None = None,
    *,
    dataset: list | Dataset | None = None,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    if dataset is None:
        keep_empty = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=not keep_empty)
    if sampler is None:
        if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN must be TrainingSampler, got {cfg.DATALOADER.SAMPLER_TRAIN!r}; "
                "pass sampler=, or install Detectron2 for the others"
            )
        sampler = TrainingSampler(len(dataset), seed=cfg.SEED)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": _required(mapper),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _required(mapper: Callable | None) -> Callable:
    if mapper is None:
        raise ValueError("mapper= is needed: the bundled engine has no default DatasetMapper")
    return mapper


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Iterable[list]:
    """An endless loader of training batches, lists of mapped dicts; also called as (cfg, mapper=, dataset=, sampler=).

    Args:
        dataset: list of dataset dicts, or an indexable data set.
        mapper: from a dataset dict to what the model takes; None for no change.
        sampler: of indices; None for `TrainingSampler`.
        total_batch_size: images per step of all processes together, which divide it.
        aspect_ratio_grouping: batch wide images with wide ones; the dicts need `width` and `height`.
        num_workers: loader processes of this process.
        collate_fn: from the list to a batch; None keeps the list.
        kwargs: `seed` of the loader's generator, and further arguments of torch's DataLoader.
    """
    dataset = _mapped(dataset, mapper)
    sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
    world_size = get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size != 0:
        raise ValueError(f"total_batch_size {total_batch_size} must be a positive multiple of {world_size} processes")
    batch_size = total_batch_size // world_size
    seed = kwargs.pop("seed", None)
    if seed is not None:
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    options = {"num_workers": num_workers, "worker_init_fn": _seed_worker, **kwargs}
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    stream = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    if not aspect_ratio_grouping:
        return DataLoader(stream, batch_size=batch_size, drop_last=True, collate_fn=collate_fn or _as_list, **options)
    single = DataLoader(stream, collate_fn=operator.itemgetter(0), **options)
    grouped = AspectRatioGroupedDataset(single, batch_size)
    return grouped if collate_fn is None else _Collated(grouped, collate_fn)


class _Collated(IterableDataset):
    def __init__(self, batches: Iterable[list], collate_fn: Callable[[list], Any]):
        self.batches = batches
        self.collate_fn = collate_fn

    def __iter__(self) -> Iterator[Any]:
        return map(self.collate_fn, self.batches)


def _test_loader_from_config(
    cfg: CfgNode, dataset_name: str | list[str], mapper: Callable[[dict], Any] | None = None
) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {"dataset": dataset, "mapper": _required(mapper), "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """A loader of this process's share of the test data, in order; also called as (cfg, dataset_name, mapper=).

    Args:
        dataset, mapper, num_workers, collate_fn: as in `build_detection_train_loader`.
        sampler: None for `InferenceSampler`.
        batch_size: images per batch of this process.
    """
    dataset = _mapped(dataset, mapper)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=InferenceSampler(len(dataset)) if sampler is None else sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or _as_list,
    )


def _mapped(dataset: list | Dataset, mapper: Callable | None) -> Dataset:
    if isinstance(dataset, IterableDataset):
        raise ValueError("the bundled engine takes lists and indexable data sets; install Detectron2 for iterable ones")
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _as_list(batch: list) -> list:
    return batch


def _seed_worker(worker_id: int) -> None:
    # torch seeds its own generator in each worker; Python's and NumPy's follow it.
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
