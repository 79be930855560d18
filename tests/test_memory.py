"""Memory of training and of its loader workers stays flat; the measurement sees a leak that is put in."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog  # noqa: F401  the engine is selected before the trainer is imported

from usg_psg.engine import Trainer
from usg_psg.engine.hooks import ShortHistoryHook

from .programs import load_tool

STEPS, LIMIT = 160, 12.0  # MiB; what is put in below leaks four times as much and more
LEAK = 2**20  # bytes per step or image


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Growth in MiB, from the second quarter of a short run to its last, by process."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tool = load_tool("benchmark_memory")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    off = ["TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "40"]

    def run() -> dict[str, float]:
        cfg = tool.run_config(Path(tmp_path), STEPS, 1, off)
        gc.collect()
        found = tool.measure(cfg, period=2)
        return {name.split()[0]: samples.growth for name, samples in found.items()}

    yield run
    torch.set_num_threads(threads)


def test_memory_is_flat(measure):
    growth = measure()
    assert set(growth) == {"trainer", "worker"}
    assert max(growth.values()) < LIMIT, growth


def test_a_leak_is_seen(measure, monkeypatch):
    """In the trainer, which keeps something of every step, and in the worker, which does so of every image."""
    kept = []
    run_step = Trainer.run_step
    monkeypatch.setattr(Trainer, "run_step", lambda self: (run_step(self), kept.append(b"x" * LEAK)))
    build = Trainer.build_train_loader.__func__

    def build_leaking(cls, cfg):
        loader = build(cls, cfg)
        mapper = loader.samples.mapper
        loader.samples.mapper = lambda entry: (kept.append(b"x" * LEAK), mapper(entry))[1]
        return loader

    monkeypatch.setattr(Trainer, "build_train_loader", classmethod(build_leaking))
    growth = measure()
    assert growth["trainer"] > 4 * LIMIT and growth["worker"] > 4 * LIMIT, growth


def test_old_values_of_scalars_are_forgotten():
    from types import SimpleNamespace

    from detectron2.utils.events import EventStorage

    with EventStorage() as storage:
        hook = ShortHistoryHook(keep=10)
        for iteration in range(31):
            storage.iter = iteration
            storage.put_scalar("loss", float(iteration))
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            hook.after_step()
        values = storage.histories()["loss"].values()
    assert [value for value, _ in values] == [float(i) for i in range(21, 31)]
