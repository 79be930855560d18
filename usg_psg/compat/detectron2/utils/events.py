"""Scalars of a training run: collected in an `EventStorage`, written out by `EventWriter`s."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections import defaultdict
from functools import cached_property
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter", "EventStorage", "EventWriter", "JSONWriter", "TensorboardXWriter", "get_event_storage",
    "has_event_storage",
]  # fmt: skip

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost storage whose `with` block is running."""
    if not _open_storages:
        raise AssertionError("get_event_storage() must be called inside a 'with EventStorage(...)' block")
    return _open_storages[-1]


def has_event_storage() -> bool:
    return bool(_open_storages)


class EventStorage:
    """Scalars by name and iteration; current inside its `with` block."""

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter  # the current iteration
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothing: dict[str, bool] = {}

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """smoothing_hint: whether writers should show a median of recent values; the same for a name each time."""
        iteration = self.iter if cur_iter is None else cur_iter
        if self._smoothing.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name} was put with smoothing_hint={not smoothing_hint} before")
        value = float(value)
        self._history[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def histories(self) -> dict[str, HistoryBuffer]:
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

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        _open_storages.remove(self)


class EventWriter:
    """Base class of what reads the current storage and writes it somewhere."""

    _window_size = 20  # of medians
    _written = -1  # last iteration that was written

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def _new_scalars(self) -> dict[int, dict[str, float]]:
        """Scalars by iteration that have not been written."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._written:
                new[iteration][name] = value
        self._written = max(new, default=self._written)
        return new


class JSONWriter(EventWriter):
    """One JSON object of scalars per line and iteration, appended to a file and flushed to the disk at each write."""

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = open(json_file, "a", encoding="utf-8")
        self._window_size = window_size

    def write(self) -> None:
        for iteration, scalars in sorted(self._new_scalars().items()):
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any):
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._window_size = window_size

    @cached_property
    def _writer(self) -> Any:  # created at the first write
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        for iteration, scalars in self._new_scalars().items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One log line per write: time left, iteration, losses, times, learning rate, GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # after the last iteration: its line has been written
        parts = [f"iter: {storage.iter}"]
        for name in storage.histories():
            if "loss" in name:
                parts.append(f"{name}: {storage._median(name, self._window_size):.4g}")
        for name in ("time", "data_time"):
            if name in storage.latest():
                parts.append(f"{name}: {storage._median(name, self._window_size):.4f}")
        if "time" in storage.latest() and self._max_iter is not None:
            seconds = storage.histories()["time"].median(1000) * (self._max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        if "lr" in storage.latest():
            parts.append(f"lr: {storage.latest()['lr'][0]:.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))
