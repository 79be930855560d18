"""Memory of a training run and its loader workers."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from tabulate import tabulate

from ...config import build_cfg
from ...data.psg_shapes import generate_psg_shapes
from ...engine import Trainer, adapt_to_machine
from .measure import own_memory

SMALL = {
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "MODEL.USG.HIDDEN_DIM": "32",
    "MODEL.USG.PIXEL_DECODER.FFN_DIM": "48",
    "MODEL.USG.MASK_DECODER.NUM_LAYERS": "1",
    "MODEL.USG.MASK_DECODER.FFN_DIM": "48",
    "MODEL.USG.RELATION_HEAD.NUM_LAYERS": "1",
    "MODEL.USG.RELATION_HEAD.FFN_DIM": "48",
    "MODEL.USG.LOSS.NUM_POINTS": "128",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.EMA.ENABLED": "True",
    "SEED": "0",
}


@dataclass
class Samples:
    """MiB of memory of one process's own (not of files), by iteration."""

    iterations: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def quarters(self) -> tuple[float, float]:
        """Medians of the second and of the last quarter.

        Raises:
            ValueError: if there are fewer than eight samples.
        """
        if len(self.memory) < 8:
            raise ValueError(f"expected at least 8 samples of a process's memory, got {len(self.memory)}")
        n = len(self.memory) // 4
        return statistics.median(self.memory[n : 2 * n]), statistics.median(self.memory[-n:])

    @property
    def growth(self) -> float:
        """MiB from the second quarter to the last."""
        early, late = self.quarters()
        return late - early


class MemoryHook(HookBase):
    """Samples the memory of the trainer and of its child processes.

    Args:
        period: iterations between samples.
    """

    def __init__(self, period: int):
        self.period = period
        self.processes: dict[str, Samples] = {}

    def after_step(self) -> None:
        """Take a sample of each process."""
        if self.trainer.iter % self.period == 0:
            self._add("trainer", os.getpid())
            for pid in children(os.getpid()):
                self._add(f"worker {pid}", pid)

    def _add(self, name: str, pid: int) -> None:
        if (memory := own_memory(pid)) is not None:
            samples = self.processes.setdefault(name, Samples())
            samples.iterations.append(self.trainer.iter)
            samples.memory.append(memory)


def children(pid: int) -> list[int]:
    """Processes that a process's threads have started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def run_config(folder: Path, iterations: int, workers: int, opts: Sequence[str] = ()) -> CfgNode:
    """The config of a run on scenes that are drawn into the folder."""
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    generate_psg_shapes(folder / "psg_shapes", num_train=32, num_val=4, size=(64, 64), preset="easy", seed=0)
    period = str(max(iterations // 10, 1))
    run = {
        "OUTPUT_DIR": str(folder / "run"),
        "DATALOADER.NUM_WORKERS": str(workers),
        "SOLVER.MAX_ITER": str(iterations),
        "SOLVER.CHECKPOINT_PERIOD": period,
        "TEST.EVAL_PERIOD": str(max(iterations // 4, 1)),
    }
    words = [word for pair in (SMALL | run).items() for word in pair]
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", [*words, *opts])
    adapt_to_machine(cfg)
    return cfg


def measure(cfg: CfgNode, period: int) -> dict[str, Samples]:
    """Train, and give the samples of every process that lived from the first step to the last."""
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer, hook = Trainer(cfg), MemoryHook(period)
    trainer.register_hooks([hook])
    trainer.train()
    whole = len(hook.processes["trainer"].memory)
    return {name: samples for name, samples in hook.processes.items() if len(samples.memory) >= whole - 1}


def run(args: Namespace) -> int:
    """0 if no process grew by more than the limit, else 1."""
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cfg = run_config(Path(folder), args.iterations, args.workers, args.opts)
        processes = measure(cfg, max(args.iterations // 100, 1))
    rows = [(name.split()[0], *samples.quarters(), samples.growth) for name, samples in processes.items()]
    headers = ("process", "second quarter, MiB", "last quarter, MiB", "growth")
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    print(f"{args.iterations} iterations in {time.monotonic() - start:.0f} s")
    return int(any(samples.growth > args.limit for samples in processes.values()))
