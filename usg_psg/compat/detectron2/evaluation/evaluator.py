"""The evaluation loop and its protocol."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..utils.comm import get_world_size, is_main_process
from ..utils.logger import log_every_n_seconds

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_context", "inference_on_dataset"]


class DatasetEvaluator:
    """Base class: `reset`, then `process` each batch, then `evaluate`."""

    def reset(self) -> None:
        """Forget what was processed."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch of model inputs and what the model returned for it."""

    def evaluate(self) -> dict | None:
        """Results as {task: {metric: value}} on the main process; may be None elsewhere."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their task names must differ.

    Args:
        evaluators: the evaluators.
    """

    def __init__(self, evaluators: list[DatasetEvaluator]):
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        results = OrderedDict()
        for evaluator in self._evaluators:
            part = evaluator.evaluate()
            if not is_main_process() or part is None:
                continue
            twice = set(part) & set(results)
            if twice:
                raise AssertionError(f"several evaluators give results named {sorted(twice)}")
            results.update(part)
        return results


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable] | None = None,
) -> dict:
    """Run the model over this process's share of the data, without gradients and in eval mode, and evaluate.

    Logs the time per batch spent on loading, the model and the evaluator; the first five batches are not counted.

    Args:
        model: from a batch of the loader to outputs; a module's training mode is restored afterwards.
        data_loader: with a length.
        evaluator: one, several, or None to measure time only.
        callbacks: functions without arguments by name: on_start, on_end, before_inference, after_inference.

    Returns:
        what `evaluator.evaluate()` returns, {} for None.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    def call(name: str) -> None:
        if callbacks and name in callbacks:
            callbacks[name]()

    clock = _StageClock(warmup=min(5, max(total - 1, 0)))
    with contextlib.ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call("on_start")
        clock.lap(None)
        for done, inputs in enumerate(data_loader, start=1):
            clock.lap("data")
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.lap("model")
            evaluator.process(inputs, outputs)
            clock.lap("evaluation")
            clock.end_batch()
            left = datetime.timedelta(seconds=int(clock.per_batch() * (total - done)))
            log_every_n_seconds(logging.INFO, f"Inference done {done}/{total}. {clock}. ETA={left}", n=5)
        call("on_end")
    logger.info("Inference took %s per batch on each of %d processes", clock, get_world_size())
    results = evaluator.evaluate()
    return {} if results is None else results


class _StageClock:
    """Seconds per batch in each stage of the loop, not counting the first batches."""

    def __init__(self, warmup: int):
        self.warmup = warmup
        self.batches = 0
        self.seconds = {"data": 0.0, "model": 0.0, "evaluation": 0.0}
        self.last = time.perf_counter()

    def lap(self, stage: str | None) -> None:
        now = time.perf_counter()
        if stage is not None:
            self.seconds[stage] += now - self.last
        self.last = now

    def end_batch(self) -> None:
        self.batches += 1
        if self.warmup and self.batches == self.warmup:
            self.warmup = self.batches = 0
            self.seconds = dict.fromkeys(self.seconds, 0.0)

    def per_batch(self) -> float:
        return sum(self.seconds.values()) / max(self.batches, 1)

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {value / max(self.batches, 1):.4f}" for name, value in self.seconds.items())
        return f"{self.per_batch():.4f} s ({stages})"


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block, the mode before it afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
