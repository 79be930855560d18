"""Run a model over a data set, evaluate its outputs, print the results and compare them with expected ones."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pprint import pformat
from typing import Any

import torch
from torch import nn

from .config import CfgNode

__all__ = ["DatasetEvaluator", "inference_context", "inference_on_dataset", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Base class: `reset`, then `process` each batch, then `evaluate`, which may give None but on the main process."""

    def reset(self) -> None:
        pass

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        pass

    def evaluate(self) -> dict | None:
        pass


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable] | None = None,
) -> dict:
    """Run the model over this process's share of the data, in eval mode, and evaluate; {} where that gives None."""
    if callbacks or not isinstance(evaluator, DatasetEvaluator):
        raise NotImplementedError("callbacks, and other than one evaluator: install Detectron2 for them")
    logger.info("Start inference on %d batches", len(data_loader))
    evaluator.reset()
    start = time.perf_counter()
    with inference_context(model), torch.no_grad():
        for inputs in data_loader:
            evaluator.process(inputs, model(inputs))
    seconds = time.perf_counter() - start
    logger.info("Inference took %.1f s, %.4f s / batch", seconds, seconds / max(len(data_loader), 1))
    return evaluator.evaluate() or {}


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log {task: {metric: value}} in lines for a spreadsheet; metrics with a "-" (per-class ones) are left out."""
    for task, result in results.items():
        shown = {name: value for name, value in result.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Any]) -> bool:
    """Compare with TEST.EXPECTED_RESULTS, rows (task, metric, value, tolerance); ends the program on a mismatch."""
    expected = cfg.TEST.EXPECTED_RESULTS
    for task, metric, value, tolerance in expected:
        actual = results[task].get(metric)
        if actual is None or not math.isfinite(actual) or abs(actual - value) > tolerance:
            logger.error("Result verification failed! Expected %s, got %s", expected, pformat(results))
            sys.exit(1)
    if expected:
        logger.info("Results verification passed.")
    return True
