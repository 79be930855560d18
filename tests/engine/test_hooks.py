"""Which checkpoints stay, which is the best, and when a limit of time ends a training."""

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage

from usg_psg.config import build_cfg
from usg_psg.engine import USGCheckpointer, hooks
from usg_psg.engine.hooks import BestCheckpointHook, CheckpointHook, TimeIsUp, TimeLimitHook


@pytest.fixture
def checkpointer(tmp_path) -> USGCheckpointer:
    return USGCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))


def saved(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("*.pth"))


def test_the_newest_checkpoints_stay(tmp_path, checkpointer):
    hook = CheckpointHook(checkpointer, period=2, keep=2)
    for iteration in range(9):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=10)
        hook.after_step()
    assert saved(tmp_path) == ["model_0000005.pth", "model_0000007.pth"]


def test_a_new_run_keeps_its_checkpoints_in_the_folder_of_a_longer_one(tmp_path, checkpointer):
    for number in (1000, 2000):
        (tmp_path / f"model_{number:07d}.pth").touch()
    hook = CheckpointHook(checkpointer, period=2, keep=1)
    for iteration in range(5):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=10)
        hook.after_step()
    assert saved(tmp_path) == ["model_0000003.pth", "model_0001000.pth", "model_0002000.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")


def evaluations(checkpointer, metric: str, values: dict[int, float], start_iter: int = 0) -> None:
    """A run that evaluates after these iterations."""
    hook = BestCheckpointHook(checkpointer, metric)
    hook.trainer = SimpleNamespace(start_iter=start_iter, max_iter=100, iter=start_iter)
    hook.before_train()
    with EventStorage(start_iter) as storage:
        hook.trainer.storage = storage
        for iteration, value in values.items():
            hook.trainer.iter = storage.iter = iteration
            storage.put_scalar("sgdet/" + metric, value, smoothing_hint=False)
            hook.after_step()


@pytest.mark.parametrize(
    "content", ["", "[1]", "null", '{"metric": "sgdet/R@50"}', '{"metric": "sgdet/R@50", "value": "a"}']
)
def test_a_damaged_record_of_the_best_is_named(tmp_path, checkpointer, content):
    (tmp_path / "model_best.json").write_text(content)
    with pytest.raises(ValueError, match="model_best.json: expected a metric and its value"):
        evaluations(checkpointer, "R@50", {11: 1.0}, start_iter=10)


@pytest.mark.parametrize(
    "metric, start_iter, values, best",
    [
        ("R@50", 10, {11: 30.0, 12: 49.0}, 2),
        ("R@50", 10, {11: 30.0, 12: 51.0}, 12),
        ("R@50", 0, {1: 30.0, 2: 20.0}, 1),
        ("R@50", 0, {1: float("nan"), 2: 20.0}, 2),
        ("mR@50", 10, {11: 30.0, 12: 20.0}, 11),
    ],
    ids=["resumed, worse", "resumed, better", "another run", "another run, nothing at first", "another metric"],
)
def test_the_best_is_that_of_this_run_and_metric(tmp_path, checkpointer, metric, start_iter, values, best):
    evaluations(checkpointer, "R@50", {1: 40.0, 2: 50.0, 3: 45.0})
    assert json.loads((tmp_path / "model_best.json").read_text())["iteration"] == 2
    if start_iter == 0:
        evaluations(checkpointer, metric, {})  # interrupted before its first evaluation, then resumed
        start_iter = 1
    evaluations(checkpointer, metric, values, start_iter)
    assert json.loads((tmp_path / "model_best.json").read_text())["iteration"] == best
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == best


@pytest.mark.parametrize(
    ("seconds_of_step", "steps"),
    [(lambda step: 0.5, 60), (lambda step: 2.0, 50), (lambda step: 1.0 if step < 50 else 10.0, 56)],
    ids=["enough time", "slow", "slower and slower"],
)
def test_a_limit_of_time_shortens_the_schedule_with_the_training(monkeypatch, seconds_of_step, steps):
    now, limit, cfg = 0.0, 100.0, build_cfg("", ["SOLVER.MAX_ITER", "60", "SOLVER.WARMUP_ITERS", "5"])
    monkeypatch.setattr(hooks, "time", SimpleNamespace(monotonic=lambda: now))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    hook = TimeLimitHook(limit)
    hook.trainer = SimpleNamespace(iter=0, start_iter=0, max_iter=60, scheduler=scheduler)
    hook.before_train()
    rates = []
    try:
        while hook.trainer.iter < 60:
            now += seconds_of_step(hook.trainer.iter)
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
            hook.after_step()
            hook.trainer.iter += 1
    except TimeIsUp:
        pass
    assert len(rates) == hook.trainer.iter == hook.trainer.max_iter == steps
    assert now <= limit + seconds_of_step(steps)
    assert rates[5:] == sorted(rates[5:], reverse=True) and rates[-1] < 0.02 * cfg.SOLVER.BASE_LR
