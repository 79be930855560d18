"""Print results, and compare them with expected ones."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from pprint import pformat
from typing import Any

from ..config import CfgNode

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results in lines that can be pasted into a spreadsheet; metrics with a "-" (per-class ones) are left out.

    Args:
        results: {task: {metric: value}} or {task: value}.
    """
    logger = logging.getLogger(__name__)
    for task, result in results.items():
        if not isinstance(result, Mapping):
            logger.info("copypaste: %s=%s", task, result)
            continue
        shown = {name: value for name, value in result.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Any]) -> bool:
    """Compare with TEST.EXPECTED_RESULTS, rows (task, metric, value, tolerance); ends the program on a mismatch."""
    logger = logging.getLogger(__name__)
    expected = cfg.TEST.EXPECTED_RESULTS
    if not expected:
        return True
    for task, metric, value, tolerance in expected:
        actual = results[task].get(metric)
        if actual is None or not math.isfinite(actual) or abs(actual - value) > tolerance:
            logger.error("Result verification failed! Expected %s, got %s", expected, pformat(results))
            sys.exit(1)
    logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results with keys joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update((f"{key}/{inner}", each) for inner, each in flatten_results_dict(value).items())
        else:
            flat[key] = value
    return flat
