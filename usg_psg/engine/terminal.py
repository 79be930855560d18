"""A run at the terminal: summary, progress, warnings and main numbers. OUTPUT_DIR/log.txt has everything."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from termcolor import colored
from torch import nn
from torch.utils.data import DataLoader

from ..data.register_psg import get_psg_metadata
from ..data.train_loader import guarded
from ..utils.program import EXPECTED, TERMINAL, TRACEBACK_VARIABLE

logger = logging.getLogger(__name__)
progress_logger = logging.getLogger("usg_psg_progress")  # for lines that log.txt has in another form
progress_logger.propagate = False

LOGGERS = ("usg_psg", "mask2former_ops", "fvcore", "detectron2")


class TerminalHandler(logging.StreamHandler):
    """Records that ask for the terminal (`program.TERMINAL`), and warnings, each of them once.

    Tracebacks of errors that the program reports in one line at its end are left to log.txt.
    """

    def __init__(self, stream: TextIO):
        super().__init__(stream)
        self._seen: set[str] = set()
        self.addFilter(self._is_wanted)

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], EXPECTED) and not os.environ.get(TRACEBACK_VARIABLE):
            return False
        if record.levelno < logging.WARNING:
            return getattr(record, "terminal", False)
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new

    def format(self, record: logging.LogRecord) -> str:
        """The message, from warnings upwards behind its level."""
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        colour = "red" if record.levelno >= logging.ERROR else "yellow"
        return f"{colored(record.levelname, colour) if self.stream.isatty() else record.levelname} {text}"


def setup_logging(output_dir: str = "") -> None:
    """Log to the terminal, on the main process and in part, see `TerminalHandler`, and all to log.txt in a folder.

    Process n > 0 writes to log.txt.rank<n>.
    """
    rank = comm.get_rank()
    terminal = [TerminalHandler(sys.stdout)] if rank == 0 else []
    handlers: list[logging.Handler] = [*terminal]
    if output_dir:
        path = Path(output_dir, "log.txt" if rank == 0 else f"log.txt.rank{rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        handlers.append(file)
    for name in LOGGERS:
        target = logging.getLogger(name)
        for old in target.handlers:
            old.close()
        target.handlers, target.propagate = list(handlers), False
        target.setLevel(logging.DEBUG)
    progress_logger.handlers = list(terminal)
    progress_logger.setLevel(logging.INFO)


def setup_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Log the machine, the command line and the config, keep the config in OUTPUT_DIR, seed, and set precisions.

    As Detectron2's `default_setup`, which would log all of it to the terminal, too.
    """
    path, rank = Path(cfg.OUTPUT_DIR, "config.yaml"), comm.get_rank()
    seed = cfg.SEED + rank if cfg.SEED >= 0 else int.from_bytes(os.urandom(4), "big")
    logger.info("process %d of %d, seed %d; command line: %s", rank, comm.get_world_size(), seed, args)
    for line in machine():
        logger.info("%s", line)
    if rank == 0:
        path.write_text(cfg.dump(), encoding="utf-8")
        logger.info("full config, saved to %s:\n%s", path, cfg.dump())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only  # images of a test differ in size
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def machine() -> list[str]:
    """Say in two lines which system, versions and GPUs these are."""
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, np, detectron2)]
    versions.insert(1, f"torchvision {version('torchvision')}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        f"{platform.platform()}; Python {platform.python_version()}; {', '.join(versions)}",
        f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, GPUs {gpus}",
    ]


def log_to_terminal(text: str) -> None:
    """Log at INFO, and show at the terminal."""
    logger.info("%s", text, extra=TERMINAL)


def training_summary(trainer: Any, recipe: str, test_images: Mapping[str, int]) -> str:
    """Describe a training before its first step: data, model, steps, device and folder."""
    cfg, first, last = trainer.cfg, trainer.start_iter, trainer.max_iter
    images = len(getattr(trainer.data_loader, "samples", ()))
    batch = cfg.SOLVER.IMS_PER_BATCH
    steps = f"{last:,} of {batch} images" if not first else f"{first + 1:,} to {last:,} of {batch} images"
    if first >= last:
        steps = f"all {last:,} are done"
    if images:
        steps += f", {last * batch / images:.1f} epochs"
    start = f"the weights of {cfg.MODEL.WEIGHTS}" if cfg.MODEL.WEIGHTS else "new weights"
    backbone = {"TimmBackbone": cfg.MODEL.TIMM, "OpenCLIPConvNeXt": cfg.MODEL.CLIP}.get(cfg.MODEL.BACKBONE.NAME)
    if backbone and backbone.PRETRAINED:
        start += f"; backbone {backbone.NAME}, {backbone.PRETRAINED}"
    if first:
        start = f"{trainer.checkpointer.get_checkpoint_file()}, after step {first:,}"
    period = cfg.TEST.EVAL_PERIOD
    evaluation = f"every {period:,} steps and after the last" if 0 < period < last else "after the last step"
    rows = {
        "recipe": recipe,
        "training data": _data_sets(cfg.DATASETS.TRAIN, {cfg.DATASETS.TRAIN[0]: images}),
        "evaluation": f"{_data_sets(cfg.DATASETS.TEST, test_images)}; {evaluation}" if cfg.DATASETS.TEST else "none",
        "model": _parameters(trainer.model),
        "starts from": start,
        "steps": steps,
        **_place(cfg),
    }
    return _lines("Training", rows)


def evaluation_summary(cfg: CfgNode, recipe: str, weights: str, model: nn.Module) -> str:
    """Describe an evaluation: data, model, weights, device and folder."""
    rows = {
        "recipe": recipe,
        "data": _data_sets(cfg.DATASETS.TEST, {}),
        "task": cfg.TEST.TASK,
        "model": _parameters(model),
        "weights": weights or "random ones",
        **_place(cfg),
    }
    return _lines("Evaluation", rows)


def _data_sets(names: Iterable[str], images: Mapping[str, int]) -> str:
    names = list(names)
    metadata = get_psg_metadata(names[0])
    parts = [f"{name} ({images[name]:,} images)" if images.get(name) else name for name in names]
    return f"{', '.join(parts)}: {len(metadata.object_classes)} classes, {len(metadata.predicate_classes)} predicates"


def _parameters(model: nn.Module) -> str:
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    words = {name: f"{count / 1e6:.2f} million" if count else "none" for name, count in counts.items()}
    return f"{words[True]} parameters trained, {words[False]} frozen"


def _place(cfg: CfgNode) -> dict[str, str]:
    processes, device, threads = comm.get_world_size(), cfg.MODEL.DEVICE, torch.get_num_threads()
    name = f"{device} ({threads} thread{'s' * (threads > 1)})"
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name()
    precision = cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "float32"
    several = f"{processes} processes, each on " if processes > 1 else ""
    return {
        "device": f"{several}{name}; {precision}; Detectron2 {detectron2.__version__}",
        "output": f"{Path(cfg.OUTPUT_DIR).resolve()} (log.txt has the configuration, the model and all messages)",
    }


def _lines(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in rows.items())])


class Pace:
    """When a line of progress is due: the first at once, then each after a twentieth of the time, 5 to 60 seconds."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether to write a line now; if so, the next is due later."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + min(max((now - self.begin) / 20, 5.0), 60.0)
        return True


class ProgressHook(HookBase):
    """Shows steps done of all, the loss, the time a step takes and the time left; on the main process."""

    def before_train(self) -> None:
        """Start the clock."""
        self.pace = Pace()

    def after_step(self) -> None:
        """Show a line if one is due."""
        trainer = self.trainer
        done = trainer.iter + 1
        if not self.pace.is_due() and done < trainer.max_iter:
            return
        histories = trainer.storage.histories()
        # Of the first steps, in which much is prepared, no time is kept.
        seconds = (time.monotonic() - self.pace.begin) / (done - trainer.start_iter)
        if "time" in histories:
            seconds = histories["time"].median(100)
        parts = [f"step {done:>{len(str(trainer.max_iter))}} of {trainer.max_iter}"]
        if "total_loss" in histories:
            parts.append(f"loss {histories['total_loss'].median(20):.2f}")
        parts.append(f"{seconds:.2f} s a step")
        if "data_time" in histories and (waiting := histories["data_time"].median(20)) > seconds / 5:
            parts.append(f"{waiting:.2f} s of it waiting for data")
        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        parts.append(f"{timedelta(seconds=round(seconds * (trainer.max_iter - done)))} left")
        progress_logger.info("   ".join(parts), extra=TERMINAL)


class CountedBatches:
    """An evaluation's loader that shows how far it is, and names the death of one of its processes."""

    def __init__(self, loader: DataLoader, name: str):
        self.loader, self.name = loader, name

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        pace, total = Pace(), len(self.loader)
        pace.is_due()
        for done, batch in enumerate(guarded(self.loader)):
            if done and pace.is_due():
                left = timedelta(seconds=round((time.monotonic() - pace.begin) / done * (total - done)))
                text = "evaluation on %s: %d of %d images   %s left"
                progress_logger.info(text, self.name, done, total, left, extra=TERMINAL)
            yield batch
