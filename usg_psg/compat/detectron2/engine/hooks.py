"""Common hooks: timing, writing, learning rate, evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase

__all__ = ["EvalHook", "IterationTimer", "LRScheduler", "PeriodicWriter"]


class IterationTimer(HookBase):
    """Puts the seconds of each step but the first few into the storage as `time`; belongs first among the hooks."""

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter

    def before_train(self) -> None:
        self._start, self._in_steps = time.perf_counter(), 0.0

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_start
        self._in_steps += seconds
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self.trainer.storage.put_scalar("time", seconds)

    def after_train(self) -> None:
        total = timedelta(seconds=int(time.perf_counter() - self._start))
        steps = timedelta(seconds=int(self._in_steps))
        logging.getLogger(__name__).info("Total training time: %s (%s in steps)", total, steps)


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and after the last one, and closes them."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what other hooks put at the end
            writer.close()


class LRScheduler(HookBase):
    """Steps the learning rate schedule after each iteration and puts the rate into the storage as `lr`."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: _TorchScheduler | None = None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> _TorchScheduler:
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        # The rate of the group with the most parameters stands for all.
        groups = (self._optimizer or self.trainer.optimizer).param_groups
        rate = max(groups, key=lambda group: len(group["params"]))["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations (0: never) and after the last one; metrics go into the storage."""

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        for name, value in _flat(self._func() or {}).items():
            try:
                self.trainer.storage.put_scalar(name, float(value), smoothing_hint=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"eval_function must return a dict of numbers, got {name}: {value}") from error
        comm.synchronize()  # processes that were faster wait here, not inside the next step

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # A training that failed has stopped earlier.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # a closure may hold the trainer


def _flat(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results with keys joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        flat.update({key: value} if inner is None else {f"{key}/{name}": each for name, each in inner.items()})
    return flat
