"""Endless training batches that can start at any place of the run.

What a batch holds depends on the seed and on the number of samples before it alone: not on loader workers, on the
number of processes, or on whether the run was interrupted. So a run that goes on from a checkpoint sees what it would
have seen.

Letters: N images of the data set, B samples of a batch of one process, W processes.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..training_counts import TrainingCounts, predicate_repeat_factors
from ..utils.allowed import one_of
from ..utils.worker_pool import exit_text
from .batch import Batch
from .psg_mapper import PSGDatasetMapper
from .register_psg import bad_record_policy, get_vocabulary
from .validation.skipped_samples import SkippedSamples

logger = logging.getLogger(__name__)

ORDER, AUGMENTATION, REPLACEMENT = range(3)  # independent streams of random numbers
SAMPLERS = one_of("TrainingSampler", "RepeatFactorTrainingSampler")


def derived_seed(*parts: int) -> int:
    """A 32-bit seed of several non-negative numbers; other numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python, NumPy and torch (CPU) draw from this seed inside, and go on as before afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPUs' generators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SampleStream(Sampler):
    """Batches of (position, index): which image stands at each position of the run.

    The run goes through the data set again and again, each time in another order.

    Args:
        size: N.
        batch_size: B, samples of this process per batch.
        seed: of the orders, equal in all processes.
        start: position to start at: the number of samples that all processes have used up.
        repeat_factors: (N,) how often an image occurs in a pass, on average, floats >= 1; None for ones.
        rank, world_size: of the process; the samples of one step are dealt out in contiguous parts.
        steps_per_update: consecutive batches of a process that belong to one step of the optimizer.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        repeat_factors: Sequence[float] | np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        steps_per_update: int = 1,
    ):
        if size <= 0 or batch_size <= 0:
            raise ValueError(f"need images and a positive batch size, got {size} images, batch size {batch_size}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.repeat_factors = None if repeat_factors is None else np.asarray(repeat_factors, dtype=np.float64)
        if self.repeat_factors is not None and self.repeat_factors.shape != (size,):
            raise ValueError(f"repeat_factors: expected {size} numbers, got shape {self.repeat_factors.shape}")
        self.rank = rank
        self.world_size = world_size
        self.steps_per_update = steps_per_update

    def order(self, epoch: int) -> np.ndarray:
        """Image indices of one pass, int64."""
        generator = np.random.default_rng((self.seed, ORDER, epoch))
        if self.repeat_factors is None:
            return generator.permutation(self.size)
        whole = np.floor(self.repeat_factors).astype(np.int64)
        counts = whole + (generator.random(self.size) < self.repeat_factors - whole)
        return generator.permutation(np.repeat(np.arange(self.size), counts))

    def _positions(self) -> Iterator[tuple[int, int]]:
        first, epoch = 0, 0
        while True:
            order = self.order(epoch)
            for offset in range(max(self.start - first, 0), len(order)):
                yield first + offset, int(order[offset])
            first += len(order)
            epoch += 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        own = self.batch_size * self.steps_per_update
        positions = self._positions()
        while True:
            step = [next(positions) for _ in range(own * self.world_size)]
            mine = step[self.rank * own : (self.rank + 1) * own]
            for begin in range(0, own, self.batch_size):
                yield mine[begin : begin + self.batch_size]


class MappedSamples(Dataset):
    """The mapper's output at (position, index), with random numbers that belong to the position.

    Args:
        dataset: N dataset dicts.
        mapper: from a dataset dict to a sample, or to None for one that cannot be used: another image, drawn for this
            position, then takes its place.
        seed: of the augmentations.
    """

    MAX_TRIES = 100

    def __init__(self, dataset: Sequence[dict], mapper: Callable[[dict], Any], seed: int):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        position, index = place
        others = np.random.default_rng((self.seed, REPLACEMENT, position))
        for _ in range(self.MAX_TRIES):
            with seeded(derived_seed(self.seed, AUGMENTATION, position)):
                sample = self.mapper(self.dataset[index])
            if sample is not None:
                return sample
            last, index = self.dataset[index].get("file_name", index), int(others.integers(len(self.dataset)))
        raise ValueError(
            f"no usable image among {self.MAX_TRIES} drawn ones, the last of them {last}: check the data set"
        )

    def collate(self, samples: list) -> Batch:
        """The samples, and the images that were skipped or mended since the last call."""
        batch = Batch(samples)
        if (skipped := getattr(self.mapper, "skipped_samples", None)) is not None:
            batch.skipped = skipped.take_new()
        return batch


PARENT_CHECK = 2.0  # seconds


def leave_signals_to_parent(_worker_id: int) -> None:
    """Ignore signals to stop from now on, but for a SIGTERM that the parent process sends itself; end with it.

    A scheduler's warning goes to every process of a job, and Ctrl-C to every process of a terminal. A loader process
    that it ended would be missing for the step after which the training process saves its state. A training process
    that was killed, on the other hand, would leave loaders behind that wait for ever to hand over a batch.
    """
    if not hasattr(signal, "sigtimedwait"):  # macOS, Windows
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    parent, signals = os.getppid(), {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while os.getppid() == parent:
            info = signal.sigtimedwait(signals, PARENT_CHECK)
            if info is not None and info.si_signo == signal.SIGTERM and info.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def guarded(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader; the death of one of its processes is an error of the batch that it was to give.

    torch's own handler of SIGCHLD raises wherever the program is, for example between two weights of an update.

    Raises:
        ChildProcessError: says which signal ended the process, and what to try.
    """
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    in_main = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    if in_main and getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.utils.data"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # torch's, or of tensors that are fetched from the process
            if isinstance(error, OSError | EOFError):  # a connection breaks before its process is gone
                ended = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1.0)
                for worker in workers:
                    if worker.sentinel in ended:
                        worker.join()
            codes = [worker.exitcode for worker in workers if worker.exitcode]
            if not codes:
                raise
            raise ChildProcessError(_death(codes[0], loader.num_workers)) from error
        yield batch


def _death(code: int, num_workers: int) -> str:
    """What an exit code of a loader process says, and what to try."""
    advice = f"try fewer DATALOADER.NUM_WORKERS (now {num_workers}) or smaller images"
    if code == -signal.SIGKILL:
        return f"a loader process was killed (signal 9, SIGKILL), as happens when memory runs out: {advice}"
    if code == -signal.SIGBUS:
        return f"a loader process was killed by a bus error, as happens when /dev/shm is full: enlarge it, or {advice}"
    return f"a loader process ended with {exit_text(code)}"


class PSGTrainLoader:
    """Endless batches of this process, lists of the mapper's samples.

    Args:
        dataset, mapper: see `MappedSamples`.
        batch_size, seed, repeat_factors, steps_per_update: see `SampleStream`.
        num_workers: loader processes.
        pin_memory: whether batches are page-locked.

    Attributes:
        skipped_samples: images that could not be used, or were mended, for the batches so far.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: Callable[[dict], Any],
        batch_size: int,
        seed: int,
        *,
        repeat_factors: Sequence[float] | np.ndarray | None = None,
        steps_per_update: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        self.dataset, self.seed = dataset, seed
        self.samples = MappedSamples(dataset, mapper, seed)
        self.stream = SampleStream(
            len(dataset),
            batch_size,
            seed,
            repeat_factors=repeat_factors,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
            steps_per_update=steps_per_update,
        )
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.skipped_samples = SkippedSamples()

    def start_at(self, position: int, seed: int | None = None) -> None:
        """Begin the next iterator after `position` samples of all processes, in the orders of `seed` if given."""
        self.stream.start = position
        if seed is not None:
            self.seed = self.stream.seed = self.samples.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.num_workers)

    def batches(self, num_workers: int) -> Iterator[Batch]:
        """The same batches by another number of loader processes; see `guarded`."""
        loader = DataLoader(
            self.samples,
            batch_sampler=self.stream,
            num_workers=num_workers,
            collate_fn=self.samples.collate,
            pin_memory=self.pin_memory,
            worker_init_fn=leave_signals_to_parent,
        )
        for batch in guarded(loader):
            for entry in batch.skipped:
                self.skipped_samples.add(*entry)
            yield batch


def build_psg_train_loader(cfg: CfgNode, mapper: Callable[[dict], Any] | None = None) -> PSGTrainLoader:
    """The loader of a config: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH split over processes and accumulation steps.

    Args:
        cfg: the config; a negative SEED draws one for all processes.
        mapper: None for `PSGDatasetMapper`.

    Raises:
        ValueError: if the batch cannot be split evenly.
    """
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    SAMPLERS.check("DATALOADER.SAMPLER_TRAIN", sampler)
    total, parts = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size() * cfg.SOLVER.ACCUMULATION_STEPS
    if cfg.SOLVER.ACCUMULATION_STEPS < 1 or total <= 0 or total % parts:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {total} cannot be split evenly over {comm.get_world_size()} processes "
            f"with SOLVER.ACCUMULATION_STEPS {cfg.SOLVER.ACCUMULATION_STEPS}"
        )
    with bad_record_policy(cfg.DATALOADER.BAD_SAMPLES):
        mapper = mapper or PSGDatasetMapper(cfg, is_train=True)
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False, check_consistency=False)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:  # Detectron2's own filter looks for "annotations", which PSG has not
        dataset = [record for record in dataset if record["segments_info"]]
        if not dataset:
            raise ValueError(f"DATALOADER.FILTER_EMPTY_ANNOTATIONS: no image of {cfg.DATASETS.TRAIN} has a segment")
    factors = None
    if sampler == "RepeatFactorTrainingSampler":
        counts = TrainingCounts.of_dataset(dataset, get_vocabulary(cfg.DATASETS.TRAIN[0]))
        factors = predicate_repeat_factors(dataset, counts, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT)
        logger.info("a pass shows %.0f images instead of %d", factors.sum(), len(factors))
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)  # in shared memory; what comes from an index is so already
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return PSGTrainLoader(
        dataset,
        mapper,
        total // parts,
        seed,
        repeat_factors=factors,
        steps_per_update=cfg.SOLVER.ACCUMULATION_STEPS,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )
