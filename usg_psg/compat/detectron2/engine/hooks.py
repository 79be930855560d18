"""Common hooks: timing, writing, checkpoints, learning rate, evaluation."""

from __future__ import annotations

import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from ..evaluation.testing import flatten_results_dict
from ..solver import LRMultiplier
from ..solver import LRScheduler as _TorchScheduler
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase, TrainerBase

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)

_Callback = Callable[[TrainerBase], Any]


class CallbackHook(HookBase):
    """A hook made of functions of the trainer."""

    def __init__(
        self,
        *,
        before_train: _Callback | None = None,
        after_train: _Callback | None = None,
        before_step: _Callback | None = None,
        after_step: _Callback | None = None,
    ):
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        if self._callbacks[moment] is not None:
            self._callbacks[moment](self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        self._callbacks.clear()  # closures may hold the trainer

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Puts the seconds of each step into the storage as `time`; belongs first among the hooks.

    Args:
        warmup_iter: how many iterations at the start are not counted.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._steps_timer = Timer()  # runs during steps, not during hooks
        self._start = time.perf_counter()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._steps_timer.reset()

    def before_train(self) -> None:
        self._restart()
        self._steps_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._steps_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._restart()
        self._steps_timer.pause()

    def after_train(self) -> None:
        total = time.perf_counter() - self._start
        steps = self._steps_timer.seconds()
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if counted > 0 and steps > 0:
            duration = timedelta(seconds=int(steps))
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                counted,
                duration,
                steps / counted,
            )
        hooks = timedelta(seconds=int(total - steps))
        logger.info("Total training time: %s (%s on hooks)", timedelta(seconds=int(total)), hooks)


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and after the last one, and closes them.

    Args:
        writers: the writers.
        period: in iterations.
    """

    def __init__(self, writers: list[EventWriter], period: int = 20):
        wrong = [type(writer).__name__ for writer in writers if not isinstance(writer, EventWriter)]
        if wrong:
            raise AssertionError(f"writers must be EventWriters, got {wrong}")
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


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every `period` iterations and after the last one."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever a metric is better than ever before; belongs after the `EvalHook`.

    Args:
        eval_period: of the EvalHook.
        checkpointer: saves.
        val_metric: name of a scalar in the storage, such as "panoptic_seg/PQ".
        mode: "max" or "min" is best.
        file_prefix: name of the file without .pth.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise AssertionError(f"mode must be max or min, got {mode!r}")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning("metric %s has not been computed: no best checkpoint is kept", self._val_metric)
            return
        value, iteration = latest
        if not math.isfinite(value) or self.best_metric is not None and not self._better(value, self.best_metric):
            logger.info(
                "%s is %.5f, best is %s at iteration %s",
                self._val_metric,
                value,
                self.best_metric,
                self.best_iter,
            )
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("Saved best model: %s is %.5f at iteration %d", self._val_metric, value, iteration)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()


class LRScheduler(HookBase):
    """Steps the learning rate schedule after each iteration and puts the rate into the storage as `lr`.

    Args:
        optimizer: None takes the trainer's.
        scheduler: torch scheduler, or an fvcore one of the factor of the initial rates; None takes the trainer's.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: _TorchScheduler | ParamScheduler | None = None,
    ):
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> _TorchScheduler | ParamScheduler:
        """The schedule."""
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._shown_group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose rate is shown: the largest; if each has one parameter, one with the commonest rate."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._shown_group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.scheduler, _TorchScheduler):
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations and after the last one; the metrics go into the storage.

    Args:
        eval_period: 0 for only after the last.
        eval_function: returns a nested dict of numbers, on all processes together.
        eval_after_train: False leaves the last one out.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                try:
                    flat[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"eval_function must return a dict of numbers, got {name}: {value}") from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
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
