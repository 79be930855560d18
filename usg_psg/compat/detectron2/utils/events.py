"""Scalars of a training run: collected in an `EventStorage`, written out by `EventWriter`s."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost storage whose `with` block is running.

    Raises:
        AssertionError: outside of any.
    """
    if not _open_storages:
        raise AssertionError("get_event_storage() must be called inside a 'with EventStorage(...)' block")
    return _open_storages[-1]


def has_event_storage() -> bool:
    """Whether a storage's `with` block is running."""
    return bool(_open_storages)


class EventStorage:
    """Scalars by name and iteration; current inside its `with` block.

    Args:
        start_iter: number of the first iteration.
    """

    def __init__(self, start_iter: int = 0):
        self._iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothing: dict[str, bool] = {}
        self._prefix = ""
        self._images: list[tuple[str, Any, int]] = []

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep an RGB picture (3, H, W), uint8 or float in [0, 1], until a writer takes it."""
        self._images.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Forget the pictures."""
        self._images = []

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record one scalar.

        Args:
            smoothing_hint: whether writers should show a median over recent values; the same for a name each time.
            cur_iter: iteration; None for the current one.
        """
        name = self._prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        if self._smoothing.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name} was put with smoothing_hint={not smoothing_hint} before")
        value = float(value)
        self._history[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """Record several scalars given as keywords."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """All values of a name.

        Raises:
            KeyError: if there are none.
        """
        if name not in self._history:
            raise KeyError(f"no scalar {name} has been put")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all names."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of each name and its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, with the median over the last window_size iterations where smoothing is hinted."""
        return {
            name: (self._median(name, window_size) if self._smoothing[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def _median(self, name: str, window_size: int) -> float:
        return self._history[name].median(self.count_samples(name, window_size))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many of a name's latest values belong to its last window_size iterations."""
        iterations = [iteration for _, iteration in self._history[name].values()]
        count = 0
        while count < len(iterations) and iterations[-1 - count] > iterations[-1] - window_size:
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        """The smoothing hint of each name."""
        return self._smoothing

    def step(self) -> None:
        """Go to the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put scalars under `name/` inside this block."""
        before = self._prefix
        self._prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = before

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        _open_storages.remove(self)


class EventWriter:
    """Base class of what reads the current storage and writes it somewhere."""

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files."""


class JSONWriter(EventWriter):
    """One JSON object of scalars per line and iteration, flushed to the disk at each write.

    Args:
        json_file: path; appended to.
        window_size: iterations over which scalars with a smoothing hint are medians.
    """

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._written = -1  # last iteration in the file

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._written:
                lines[iteration][name] = value
        for iteration in sorted(lines):
            self._file.write(json.dumps({**lines[iteration], "iteration": iteration}, sort_keys=True) + "\n")
            self._written = iteration
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Scalars and pictures to TensorBoard files, which are created at the first write.

    Args:
        log_dir: folder.
        window_size: as in `JSONWriter`.
        kwargs: further arguments of `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any):
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._window_size = window_size
        self._written = -1

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._written
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._written:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._written = newest
        for name, picture, iteration in storage._images:
            self._writer.add_image(name, picture, iteration)
        storage.clear_images()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One log line per write: time left, iteration, losses, times, learning rate, GPU memory.

    Args:
        max_iter: iterations of the run; None prints no time left.
        window_size: as in `JSONWriter`.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # (iteration, time)

    def write(self) -> None:
        storage = get_event_storage()
        iteration = storage.iter
        if iteration == self._max_iter:
            return  # after the last iteration: its line has been written
        losses, metrics, times = [], [], []
        for name in storage.histories():
            text = f"{name}: {storage._median(name, self._window_size):.4g}"
            if "loss" in name:
                losses.append(text)
            elif "[metric]" in name:
                metrics.append(text)
        if "time" in storage.latest():
            history = storage.history("time")
            times += [f"time: {history.global_avg():.4f}", f"last_time: {history.latest():.4f}"]
        if "data_time" in storage.latest():
            history = storage.history("data_time")
            average = history.avg(storage.count_samples("data_time", self._window_size))
            times += [f"data_time: {average:.4f}", f"last_data_time: {history.latest():.4f}"]
        rate = f"{storage.latest()['lr'][0]:.5g}" if "lr" in storage.latest() else "N/A"
        parts = [self._time_left(storage), f"iter: {iteration}", *losses, *metrics, *times, f"lr: {rate}"]
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(part for part in parts if part))

    def _time_left(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        iteration, now = storage.iter, time.perf_counter()
        if "time" in storage.latest():
            per_iteration = storage.history("time").median(1000)
        elif self._last_write is not None and iteration > self._last_write[0]:
            per_iteration = (now - self._last_write[1]) / (iteration - self._last_write[0])
        else:
            per_iteration = None
        self._last_write = (iteration, now)
        if per_iteration is None:
            return ""
        seconds = per_iteration * (self._max_iter - iteration - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return f"eta: {datetime.timedelta(seconds=int(seconds))}"
