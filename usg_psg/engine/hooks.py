"""Hooks besides Detectron2's: checkpoints kept, the best one, raw losses, an orderly stop, a limit of time."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.validation.skipped_samples import SkippedSamples
from ..utils.files import write_whole
from ..utils.program import TERMINAL
from .checkpoint import USGCheckpointer
from .launch import SECOND_CTRL_C

logger = logging.getLogger(__name__)


def is_last(trainer) -> bool:
    """Whether the step that was just made is the run's last."""
    return trainer.iter + 1 >= trainer.max_iter


class CheckpointHook(HookBase):
    """Saves `model_<iteration>.pth` every `period` steps (0: never) and `model_final.pth` after the last.

    The newest `keep` of the periodic ones stay; 0 for all.
    """

    def __init__(self, checkpointer: USGCheckpointer, period: int, keep: int = 0):
        self.checkpointer = checkpointer
        self.period = period
        self.keep = keep

    def after_step(self) -> None:
        """Save at the period, and at the last step."""
        if is_last(self.trainer):
            self.checkpointer.save("model_final", iteration=self.trainer.iter)
        elif self.period > 0 and (self.trainer.iter + 1) % self.period == 0:
            self.save()

    def save(self) -> None:
        """Save the state after the present step, then drop the checkpoints that are too many."""
        self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        # All files of the folder count, as a resumed run has earlier ones, but not those of a longer, older run.
        found = sorted(Path(self.checkpointer.save_dir).glob("model_" + "[0-9]" * 7 + ".pth"))
        found = [path for path in found if int(path.stem.removeprefix("model_")) <= self.trainer.iter]
        for path in found[: -self.keep] if self.keep > 0 else ():
            path.unlink(missing_ok=True)


class BestCheckpointHook(HookBase):
    """Keeps `model_best.pth`, the state with the highest value of a metric; the record is in `model_best.json`.

    `--resume` does not go on from it: `last_checkpoint` keeps naming the newest state. A resumed run goes on from the
    record; that of another run or of another metric does not count.

    Args:
        checkpointer: of the main process.
        metric: as the evaluation logs it, for example "sgdet/single/R@50"; with several test data sets, of the first.
    """

    def __init__(self, checkpointer: USGCheckpointer, metric: str):
        self.checkpointer = checkpointer
        self.metric = metric
        self.record = Path(checkpointer.save_dir) / "model_best.json"
        self._seen = -1

    def before_train(self) -> None:
        """Forget the best of an earlier run, unless this one goes on from it."""
        if self.trainer.start_iter == 0:
            self.record.unlink(missing_ok=True)

    def after_step(self) -> None:
        """Look at the metric, and save if it is the best."""
        self._look()

    def after_train(self) -> None:
        """Look at the last evaluation."""
        self._look()

    def _look(self) -> None:
        latest = self.trainer.storage.latest()
        name = next((k for k in latest if k == self.metric or k.endswith("/" + self.metric)), None)
        if name is None or latest[name][1] == self._seen:
            return
        value, self._seen = latest[name]
        if not value > self._best(name):  # as no NaN is
            return
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        self.checkpointer.save("model_best", tag=False, iteration=iteration)
        content = json.dumps({"metric": name, "value": value, "iteration": iteration})
        write_whole(self.record, lambda file: file.write(content.encode()))
        logger.info("best so far: %s %.2f after step %d", name, value, iteration + 1, extra=TERMINAL)

    def _best(self, name: str) -> float:
        """The value of the record, if it is of this metric."""
        if not self.record.is_file():
            return float("-inf")
        try:
            best = json.loads(self.record.read_text())
            return float(best["value"]) if best["metric"] == name else float("-inf")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{self.record}: expected a metric and its value; remove the file to start anew"
            ) from error


class LossLogHook(HookBase):
    """Writes the losses of every single step, unsmoothed, to `losses.jsonl`; `metrics.json` has medians."""

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None

    def after_step(self) -> None:
        """Write this step's losses."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # a line is there when it is written
        latest = self.trainer.storage.latest()
        losses = {k: v for k, (v, when) in latest.items() if "loss" in k and when == self.trainer.iter}
        self._file.write(json.dumps({"iteration": self.trainer.iter, **losses}) + "\n")

    def after_train(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class ShortHistoryHook(HookBase):
    """Forgets old values of the logged scalars, of which the trainer would keep a million each."""

    KEEP = 1000  # printing looks at no more

    def after_step(self) -> None:
        """Cut the histories at the period."""
        if self.trainer.iter % self.KEEP == 0:
            for history in self.trainer.storage.histories().values():
                del history.values()[: -self.KEEP]


def truncate_log(path: Path, first_iteration: int) -> None:
    """Drop the lines of a log of JSON lines that a resumed run is going to write again, and one that is cut off.

    In place, as a writer may hold the file open already.
    """
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        lines = file.readlines()
        kept = [line for line in lines if _iteration(line) < first_iteration]
        if kept != lines[: len(kept)]:  # Detectron2's writer does not sort lines
            file.seek(0)
            file.writelines(kept)
        file.truncate(sum(map(len, kept)))


def _iteration(line: bytes) -> float:
    """Of a line of a log: -1 if it has none, infinite if it is cut off or no record."""
    try:
        iteration = json.loads(line).get("iteration", -1) if line.endswith(b"\n") else float("inf")
    except (ValueError, AttributeError, RecursionError):
        return float("inf")
    return iteration if isinstance(iteration, int | float) else float("inf")


class SkippedSamplesReport(HookBase):
    """Logs at the end of training, also of one that failed, how many images were left out and the first of them.

    Each process counts the images that its own loader met.
    """

    def __init__(self, skipped_samples: SkippedSamples):
        self.skipped_samples = skipped_samples

    def after_train(self) -> None:
        """Log the summary."""
        if summary := self.skipped_samples.summary():
            logger.warning("%s", summary)


class StopHook(HookBase):
    """Ends the run with a checkpoint after Ctrl-C, the end of its terminal, or a cluster's warning (`STOP_SIGNALS`).

    Every process needs one. The signal may reach one of them only; all end after the same step. A second Ctrl-C ends
    the process at once.

    Args:
        checkpoint: saves the state on the main process, None on the others.
    """

    def __init__(self, checkpoint: CheckpointHook | None):
        self.checkpoint = checkpoint
        self._process = os.getpid()
        self._asked = 0.0  # time of the first signal
        self._by = ""
        self._evaluates = False

    def on_signal(self, number: int, _frame: object) -> None:
        """The handler that `Trainer.train` gives to the signals while it runs."""
        if os.getpid() != self._process:
            return  # a loader process of an evaluation, forked from this one
        runner, now = self.trainer._trainer, time.monotonic()
        if number == signal.SIGINT:
            if self._asked and now - self._asked > SECOND_CTRL_C:
                raise KeyboardInterrupt
            if not self._asked and self.checkpoint is not None:
                with suppress(OSError):  # no print: the signal may have come in the middle of one
                    os.write(2, b"Ctrl-C: the state is saved after this step; once more to end at once\n")
        self._asked, self._by = self._asked or now, self._by or signal.Signals(number).name
        runner.stop_request = runner.stop_request or 128 + number
        if self._evaluates:
            raise SystemExit(runner.stop_request)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Work between two steps that changes no state, and that a signal breaks off."""
        runner = self.trainer._trainer
        # Only on the main process: the others wait for it, and whoever started them ends them.
        self._evaluates = self.checkpoint is not None
        try:
            if self._evaluates and runner.stop_request:
                raise SystemExit(runner.stop_request)
            yield
        finally:
            self._evaluates = False

    def save_in_evaluation(self) -> None:
        """Save the state before an evaluation that did not end; that after the last step is saved already."""
        if self.checkpoint is not None:
            if not is_last(self.trainer):
                self.checkpoint.save()
            self._say("in the evaluation")

    def after_step(self) -> None:
        """Save and stop if one has come."""
        runner = self.trainer._trainer
        if not runner.stop_status or is_last(self.trainer):
            return
        if self.checkpoint is not None:
            self.checkpoint.save()
            self._say("")
        comm.synchronize()  # the first process to end takes the others along, one of which may still be saving
        raise runner.failure or SystemExit(runner.stop_status)

    def _say(self, where: str) -> None:
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        words = [
            "stopped",
            f"by {self._by}" if self._by else "",
            where,
            f"after step {done} of {self.trainer.max_iter}",
        ]
        logger.warning("%s; the state is saved, and --resume goes on from here", " ".join(filter(None, words)))


class TimeIsUp(BaseException):
    """Ends the loop over the steps; no Exception, which the loop would log as a failure."""


class TimeLimitHook(HookBase):
    """Shortens a training so that its steps end in time; the last hook, and for one process only.

    The schedule of the learning rate is shortened with it: done so far is the larger of the share of the steps made and
    the share of the time used, so it ends where it should however the pace changes.

    Args:
        seconds: from the first step to the last.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def before_train(self) -> None:
        """Start the clock."""
        self._begin = time.monotonic()
        self._most = self.trainer.max_iter

    def after_step(self) -> None:
        """End the training, or plan its number of steps anew."""
        trainer: Any = self.trainer
        done = trainer.iter + 1
        if done == trainer.max_iter < self._most:
            trainer.iter = done  # as after a loop over all
            raise TimeIsUp
        first = trainer.start_iter
        fitting = first + int((done - first) * self.seconds / (time.monotonic() - self._begin))
        trainer.max_iter = trainer.scheduler._max_iter = min(max(done + 1, fitting), self._most)
