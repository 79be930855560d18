"""Memory of training and of its loader workers stays flat; the measurement sees a leak that is put in."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from usg_psg.cli.benchmark import memory
from usg_psg.engine import Trainer
from usg_psg.engine.hooks import ShortHistoryHook

STEPS, LIMIT = 160, 12.0  # MiB; what is put in below leaks four times as much and more
LEAK = 2**20  # bytes per step or image


def leak() -> None:
    """Let the trainer keep something of every step, and the loader's process something of every image."""
    kept: list[bytes] = []
    run_step, build = Trainer.run_step, Trainer.build_train_loader.__func__

    def leaking_step(self) -> None:
        run_step(self)
        kept.append(b"x" * LEAK)

    def build_leaking(cls, cfg):
        loader = build(cls, cfg)
        mapper = loader.samples.mapper
        loader.samples.mapper = lambda entry: (kept.append(b"x" * LEAK), mapper(entry))[1]
        return loader

    Trainer.run_step, Trainer.build_train_loader = leaking_step, classmethod(build_leaking)


def measure(folder: str, with_leak: bool) -> dict[str, float]:
    """Growth in MiB, from the second quarter of a short run to its last, by process."""
    os.environ["DETECTRON2_DATASETS"] = folder
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as in a program
    torch.set_num_threads(1)
    if with_leak:
        leak()
    off = ["TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "40"]
    found = memory.measure(memory.run_config(Path(folder), STEPS, 1, off), period=2)
    return {name.split()[0]: samples.growth for name, samples in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("with_leak", [False, True])
def test_memory_is_flat_and_a_leak_is_seen(with_leak, tmp_path):
    # In a process of its own: one that has freed much memory before does not grow, whatever leaks.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        growth = fresh.submit(measure, str(tmp_path), with_leak).result(timeout=500)
    assert set(growth) == {"trainer", "worker"}
    if with_leak:
        assert min(growth.values()) > 4 * LIMIT, growth
    else:
        assert max(growth.values()) < LIMIT, growth


def test_old_values_of_scalars_are_forgotten():
    from types import SimpleNamespace

    from detectron2.utils.events import EventStorage

    with EventStorage() as storage:
        hook = ShortHistoryHook()
        hook.KEEP = 10
        for iteration in range(31):
            storage.iter = iteration
            storage.put_scalar("loss", float(iteration))
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            hook.after_step()
        values = storage.histories()["loss"].values()
    assert [value for value, _ in values] == [float(i) for i in range(21, 31)]
