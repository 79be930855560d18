"""Trainer, hooks, checkpoints, schedules and events; the same on both engines."""

from __future__ import annotations

import json
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from detectron2.evaluation import verify_results as verify
from detectron2.layers import Conv2d
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage, has_event_storage
from torch import nn

from usg_psg.compat import engine_name


@pytest.mark.skipif(engine_name() != "bundled", reason="Detectron2's has a loop of its own")
def test_bundled_default_trainer_says_that_it_is_a_base_class():
    with pytest.raises(NotImplementedError, match="base class"):
        DefaultTrainer(get_cfg())


def test_hooks_are_called_in_order():
    calls = []

    class Named(HookBase):
        def __init__(self, name):
            self.name = name

        def before_train(self):
            calls.append(f"{self.name} before_train")

        def before_step(self):
            calls.append(f"{self.name} before {self.trainer.iter}")

        def after_step(self):
            calls.append(f"{self.name} after {self.trainer.iter}")

        def after_train(self):
            calls.append(f"{self.name} after_train {self.trainer.iter}")

    class Loop(TrainerBase):
        def run_step(self):
            calls.append(f"step {self.iter}")

    trainer = Loop()
    trainer.register_hooks([Named("a"), None, Named("b")])
    trainer.train(3, 5)
    step = [["a before {0}", "b before {0}", "step {0}", "a after {0}", "b after {0}"]] * 2
    steps = [text.format(3 + n) for n, texts in enumerate(step) for text in texts]
    assert calls == ["a before_train", "b before_train", *steps, "a after_train 5", "b after_train 5"]


def test_hooks_end_a_training_that_fails():
    ended = []

    class End(HookBase):
        def after_train(self):
            ended.append(self.trainer.iter)

    class Fails(TrainerBase):
        def run_step(self):
            if self.iter == 2:
                raise ZeroDivisionError

    trainer = Fails()
    trainer.register_hooks([End()])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 5)
    assert ended == [2] and not has_event_storage()


def test_eval_hook_demands_numbers():
    class Loop(TrainerBase):
        def run_step(self):
            pass

    trainer = Loop()
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"t": {"m": "high"}})])
    with pytest.raises(ValueError, match="t/m"):
        trainer.train(0, 1)


def test_cosine_schedule_is_the_formula():
    """Linear from WARMUP_FACTOR to the cosine's value at the end of the warmup; then (1 + cos(pi t)) / 2."""
    cfg = get_cfg()
    cfg.SOLVER.merge_from_list(["LR_SCHEDULER_NAME", "WarmupCosineLR", "MAX_ITER", 100, "WARMUP_ITERS", 20])
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)

    def cosine(n):
        return (1 + math.cos(math.pi * n / 100)) / 2

    for n in range(100):
        start = 0.001
        expected = start + (cosine(20) - start) * n / 20 if n < 20 else cosine(n)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected, 0.1 * expected], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_storage_smooths_over_iterations(tmp_path):
    with EventStorage(10) as storage:
        assert get_event_storage() is storage and has_event_storage()
        writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=3)
        for value in (9.0, 1.0, 2.0, 3.0):
            storage.put_scalar("loss", value)
            storage.put_scalar("lr", value, smoothing_hint=False)
            storage.iter += 1
        storage.put_scalars(pq=0.5)
        assert storage.latest()["pq"] == (0.5, 14) and storage.count_samples("loss", 3) == 3
        writer.write()
        writer.close()
        with pytest.raises(AssertionError):
            storage.put_scalar("lr", 1.0)
    assert not has_event_storage()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"iteration": 13, "loss": 2.0, "lr": 3.0}, {"iteration": 14, "pq": 0.5}]


class Sum(DatasetEvaluator):
    def reset(self) -> None:
        self.total = 0.0

    def process(self, inputs: list, outputs: torch.Tensor) -> None:
        self.total += outputs.item()

    def evaluate(self) -> dict:
        return {"task": {"total": self.total}}


def test_inference_restores_the_mode():
    model = nn.Dropout(0.5)
    assert inference_on_dataset(model, [torch.tensor(float(n)) for n in range(7)], Sum()) == {"task": {"total": 21.0}}
    assert model.training
    with inference_context(model):
        assert not model.training


def test_expected_results_are_verified():
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["line", "error", 1.0, 0.1]]
    assert verify(cfg, {"line": {"error": 1.05}})
    for wrong in ({"error": 1.2}, {"error": math.nan}, {}):
        with pytest.raises(SystemExit):
            verify(cfg, {"line": wrong})


def test_convolution_with_norm_and_activation():
    layer = Conv2d(3, 32, 3, padding=1, bias=False, norm=nn.GroupNorm(32, 32), activation=torch.relu)
    image = torch.randn(2, 3, 5, 5)
    plain = nn.functional.conv2d(image, layer.weight, padding=1)
    expected = nn.functional.group_norm(plain, 32, layer.norm.weight, layer.norm.bias).relu()
    assert torch.allclose(layer(image), expected)
