"""Trainer, hooks, checkpoints, schedules and events; the same on both engines."""

from __future__ import annotations

import json
import math
import weakref

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from detectron2.evaluation import verify_results as verify
from detectron2.layers import Conv2d
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage, has_event_storage
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from usg_psg.compat import engine_name


@META_ARCH_REGISTRY.register()
class CompatLine(nn.Module):
    """y = a x + b, two parameters; returns predictions in eval mode."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: list[dict]) -> dict | list:
        x = torch.tensor([each["x"] for each in batch])
        y = self.slope * x + self.offset
        if not self.training:
            return y.tolist()
        return {"loss_fit": (y - 2 * x - 1).square().mean(), "loss_decay": 0.01 * self.slope.square()}


class Error(DatasetEvaluator):
    def reset(self) -> None:
        self.errors = []

    def process(self, inputs: list[dict], outputs: list) -> None:
        self.errors += [abs(y - 2 * each["x"] - 1) for each, y in zip(inputs, outputs, strict=True)]

    def evaluate(self) -> dict:
        return {"line": {"error": sum(self.errors) / len(self.errors), "images": float(len(self.errors))}}


class Steps:
    """The inner trainer: gradient descent on one batch."""

    def __init__(self, model: nn.Module):
        self.model = model.train()
        self.data_loader = [[{"x": 0.5}, {"x": 1.0}]]
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def run_step(self) -> None:
        losses = self.model(self.data_loader[0])
        total = sum(losses.values())
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        get_event_storage().put_scalars(total_loss=total.item(), **{k: v.item() for k, v in losses.items()})

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class SaveHook(HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == 4:
            self.trainer.checkpointer.save("model_0000004", iteration=4)


class Trainer(DefaultTrainer):
    """A loop of its own in Detectron2's trainer."""

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self._trainer = Steps(self.build_model(cfg))
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.checkpointer = Checkpointer(self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        evaluation = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, lambda: self.test(cfg, self.model))
        writer = hooks.PeriodicWriter(self.build_writers(), period=4)
        self.register_hooks([hooks.IterationTimer(), hooks.LRScheduler(), SaveHook(), None, evaluation, writer])

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=dict)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Error()


@pytest.fixture
def cfg(tmp_path) -> CfgNode:
    DatasetCatalog.register("compat_line", lambda: [{"x": 0.5} for _ in range(4)])
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.META_ARCHITECTURE", "CompatLine", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
        + ["DATASETS.TEST", ("compat_line",), "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 8, "SEED", 1]
        + ["SOLVER.WARMUP_ITERS", 3, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "TEST.EVAL_PERIOD", 4]
    )
    yield cfg
    DatasetCatalog.remove("compat_line")


def parameters(trainer: DefaultTrainer) -> list[float]:
    return [trainer.model.slope.item(), trainer.model.offset.item()]


def test_trainer_trains_and_resumes(cfg, tmp_path):
    """A run that is resumed after 5 of 8 iterations ends where an undisturbed one does."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    trainer.train()
    undisturbed = parameters(trainer)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    last = [line for line in lines if "total_loss" in line][-1]
    assert last["iteration"] == 7 and {"loss_fit", "loss_decay", "lr", "time"} <= set(last)
    assert lines[-1]["iteration"] == 8 and "line/error" in lines[-1]  # the evaluation after the last iteration, 7
    assert any("line/error" in line and line["line/images"] == 4 for line in lines)
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 5
    assert parameters(trainer) != undisturbed
    trainer.train()
    assert parameters(trainer) == pytest.approx(undisturbed, abs=1e-7)

    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_0000004.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "fresh")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0 and parameters(trainer) != [0.0, 0.0]


@pytest.mark.skipif(engine_name() != "bundled", reason="Detectron2's has a loop of its own")
def test_bundled_default_trainer_says_that_it_is_a_base_class(cfg):
    with pytest.raises(NotImplementedError, match="base class"):
        DefaultTrainer(cfg)


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


def test_inference_restores_the_mode():
    model = CompatLine(None)
    data = [[{"x": float(n)}] for n in range(7)]
    assert inference_on_dataset(model, data, Error()) == {"line": {"error": 7.0, "images": 7.0}} and model.training
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


def test_unknown_model_is_named():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "CompatNoSuchModel"
    with pytest.raises(KeyError, match="CompatNoSuchModel"):
        build_model(cfg)
