"""Scalars of a training to Weights & Biases, MLflow and trackio, each an optional package.

Where they go is each package's own business: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR and the like.
"""

from __future__ import annotations

import json
import time
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from ..config.files import leaves
from ..utils.extras import optional
from ..utils.files import write_json

PROJECT = "usg_psg"
RUNS = "logger_runs.json"  # in OUTPUT_DIR: the run of each logger, with which a resumed training goes on


class RunLogger(EventWriter):
    """Writes to one run of an experiment tracker; a training that is resumed in the same OUTPUT_DIR continues it.

    Args:
        cfg: logged with the run; OUTPUT_DIR holds the run's id.

    Raises:
        ValueError: if the package is not installed; names the extra.
    """

    name = ""  # in LOGGERS; also that of the package and the extra

    def __init__(self, cfg: CfgNode):
        self.package: Any = optional(self.name, f"LOGGERS {self.name!r}")
        self.cfg = cfg
        self.title = Path(cfg.OUTPUT_DIR).resolve().name
        self._started = False
        self._written = -1  # the last iteration that was written

    def write(self) -> None:
        """Log the scalars that are new since the last time, with medians where the engine's other writers have them."""
        new: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self._written:
                new.setdefault(iteration, {})[name] = float(value)
        if new and not self._started:
            self._start()
        for iteration, scalars in sorted(new.items()):
            self.log(scalars, iteration)
            self._written = iteration

    def close(self) -> None:
        """End the run, if it has begun."""
        if self._started:
            self.finish()
            self._started = False

    def _start(self) -> None:
        path = Path(self.cfg.OUTPUT_DIR) / RUNS
        runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        config = {key: value if isinstance(value, int | float) else str(value) for key, value in leaves(self.cfg)}
        run = self.start(runs.get(self.name, ""), config)
        self._started = True
        if runs.get(self.name) != run:
            write_json(path, {**runs, self.name: run})

    @abstractmethod
    def start(self, run: str, config: dict[str, Any]) -> str:
        """Begin a run with the config, or go on with the one of this id; returns the id."""

    @abstractmethod
    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Log the scalars of one iteration."""

    @abstractmethod
    def finish(self) -> None:
        """End the run."""


class WandbLogger(RunLogger):
    """Weights & Biases; scalars are drawn over "iteration", as its own steps cannot go back to a checkpoint."""

    name = "wandb"

    def start(self, run: str, config: dict[str, Any]) -> str:  # noqa: D102
        run = run or uuid.uuid4().hex[:12]
        options = {"project": PROJECT, "name": self.title, "dir": self.cfg.OUTPUT_DIR, "config": config}
        self.run = self.package.init(id=run, resume="allow", **options)
        self.run.define_metric("*", step_metric="iteration")
        return run

    def log(self, scalars: dict[str, float], iteration: int) -> None:  # noqa: D102
        self.run.log({**scalars, "iteration": iteration})

    def finish(self) -> None:  # noqa: D102
        self.run.finish()


class MLflowLogger(RunLogger):
    """MLflow, in whose names "@" cannot stand: R@50 is R_at_50."""

    name = "mlflow"

    def start(self, run: str, config: dict[str, Any]) -> str:  # noqa: D102
        self.client = self.package.MlflowClient()
        self.run = run
        if run:
            self.client.update_run(run, status="RUNNING")
            return run
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        self.run = self.client.create_run(experiment, run_name=self.title).info.run_id
        params = [self.package.entities.Param(key, str(value)) for key, value in config.items()]
        for first in range(0, len(params), 100):  # as many as MLflow takes at once
            self.client.log_batch(self.run, params=params[first : first + 100])
        return self.run

    def log(self, scalars: dict[str, float], iteration: int) -> None:  # noqa: D102
        now, metric = int(1000 * time.time()), self.package.entities.Metric
        found = [metric(name.replace("@", "_at_"), value, now, iteration) for name, value in scalars.items()]
        for first in range(0, len(found), 1000):
            self.client.log_batch(self.run, metrics=found[first : first + 1000])

    def finish(self) -> None:  # noqa: D102
        self.client.set_terminated(self.run)


class TrackioLogger(RunLogger):
    """trackio, whose runs are known by their names."""

    name = "trackio"

    def start(self, run: str, config: dict[str, Any]) -> str:  # noqa: D102
        run = run or f"{self.title}-{uuid.uuid4().hex[:6]}"
        self.package.init(PROJECT, name=run, config=config, resume="allow")
        return run

    def log(self, scalars: dict[str, float], iteration: int) -> None:  # noqa: D102
        self.package.log(scalars, step=iteration)

    def finish(self) -> None:  # noqa: D102
        self.package.finish()


LOGGERS: dict[str, type[RunLogger]] = {kind.name: kind for kind in (WandbLogger, MLflowLogger, TrackioLogger)}
