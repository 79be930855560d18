"""Hooks besides Detectron2's: checkpoints that are kept, the best one, the raw losses, an orderly stop."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any, TextIO

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.files import write_whole
from ..data.left_out import LeftOutImages
from .checkpoint import USGCheckpointer
from .launch import STOP_SIGNALS

logger = logging.getLogger(__name__)


def is_last(trainer) -> bool:
    """Whether the step that was just made is the run's last."""
    return trainer.iter + 1 >= trainer.max_iter


class CheckpointHook(HookBase):
    """Saves `model_<iteration>.pth` every so many steps and `model_final.pth` after the last.

    Args:
        checkpointer: of the main process.
        period: steps; 0 or less saves the final checkpoint only.
        keep: how many of the periodic ones stay, the newest; 0 for all.
    """

    def __init__(self, checkpointer: USGCheckpointer, period: int, keep: int = 0):
        self.checkpointer = checkpointer
        self.period = period
        self.keep = keep

    def after_step(self) -> None:
        if is_last(self.trainer):
            self.checkpointer.save("model_final", iteration=self.trainer.iter)
        elif self.period > 0 and (self.trainer.iter + 1) % self.period == 0:
            self.save()

    def save(self) -> None:
        """Save the state after the present step, then drop the checkpoints that are too many."""
        self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        # By what lies in the folder, so that a run that was resumed counts the checkpoints from before, too; not what
        # an older and longer run has left there.
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
        if self.trainer.start_iter == 0:
            self.record.unlink(missing_ok=True)

    def after_step(self) -> None:
        self._look()

    def after_train(self) -> None:
        self._look()

    def _look(self) -> None:
        latest = self.trainer.storage.latest()
        name = next((k for k in latest if k == self.metric or k.endswith("/" + self.metric)), None)
        if name is None or latest[name][1] == self._seen:
            return
        value, self._seen = latest[name]
        best = json.loads(self.record.read_text()) if self.record.is_file() else {}
        if not value > (best["value"] if best.get("metric") == name else float("-inf")):  # as no NaN is
            return
        iteration = min(self.trainer.iter, self.trainer.max_iter - 1)
        self.checkpointer.save("model_best", tag=False, iteration=iteration)
        content = json.dumps({"metric": name, "value": value, "iteration": iteration})
        write_whole(self.record, lambda file: file.write(content.encode()))
        logger.info("best so far: %s %.2f at iteration %d", name, value, iteration)


class LossLogHook(HookBase):
    """Writes the losses of every single step, unsmoothed, to `losses.jsonl`; `metrics.json` has medians.

    Args:
        path: lines are added to it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None

    def after_step(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # a line is there when it is written
        latest = self.trainer.storage.latest()
        losses = {k: v for k, (v, when) in latest.items() if "loss" in k and when == self.trainer.iter}
        self._file.write(json.dumps({"iteration": self.trainer.iter, **losses}) + "\n")

    def after_train(self) -> None:
        if self._file is not None:
            self._file.close()


class ShortHistoryHook(HookBase):
    """Forgets old values of the logged scalars, of which the trainer would keep a million each.

    Args:
        keep: newest values of a scalar; what is printed looks at no more than a thousand.
    """

    def __init__(self, keep: int = 1000):
        self.keep = keep

    def after_step(self) -> None:
        if self.trainer.iter % self.keep == 0:
            for history in self.trainer.storage.histories().values():
                del history.values()[: -self.keep]


def truncate_log(path: Path, first_iteration: int) -> None:
    """Drop the lines of a log of JSON lines that a resumed run is going to write again, and one that is cut off.

    In place, as a writer may hold the file open already.
    """
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        lines = file.readlines()
        kept = [line for line in lines if _iteration(line) < first_iteration]
        if kept != lines[: len(kept)]:  # Detectron2's writer does not sort what it writes at once
            file.seek(0)
            file.writelines(kept)
        file.truncate(sum(map(len, kept)))


def _iteration(line: bytes) -> float:
    """Of a line of a log: -1 if it has none, infinite if it is cut off."""
    try:
        return json.loads(line).get("iteration", -1) if line.endswith(b"\n") else float("inf")
    except ValueError:
        return float("inf")


class LeftOutReport(HookBase):
    """Logs at the end of training, also of one that failed, how many images were left out and the first of them.

    Each process counts the images that its own loader met.

    Args:
        left_out: the loader's list; None if it leaves nothing out.
    """

    def __init__(self, left_out: LeftOutImages | None):
        self.left_out = left_out

    def after_train(self) -> None:
        """Log the summary."""
        if self.left_out is not None and (summary := self.left_out.summary()):
            logger.warning("%s", summary)


class StopHook(HookBase):
    """Ends the run after SIGTERM or SIGUSR1 (a cluster's warning before it takes the machine) with a checkpoint.

    Every process needs one. The signal may reach one of them only; all end after the same step.

    Args:
        checkpoint: saves the state on the main process, None on the others.
    """

    def __init__(self, checkpoint: CheckpointHook | None):
        self.checkpoint = checkpoint
        self._before: dict[int, Any] = {}
        self._signal = 0

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = number
        self.trainer._trainer.stop_requested = True

    def after_step(self) -> None:
        if not self.trainer._trainer.should_stop or is_last(self.trainer):
            return
        if self.checkpoint is not None:
            self.checkpoint.save()
            logger.warning("stopped by a signal after iteration %d; --resume goes on from here", self.trainer.iter)
        comm.synchronize()  # the first process to end takes the others along, one of which may still be saving
        raise SystemExit(128 + (self._signal or signal.SIGTERM))

    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
