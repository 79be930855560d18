"""Trainer, hooks, checkpoints, schedules and events; the same on both engines."""

from __future__ import annotations

import json
import math

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, default_argument_parser, default_setup, hooks
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from detectron2.evaluation import verify_results as verify
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage, has_event_storage
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


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=dict)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=dict)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Error()


@pytest.fixture
def cfg(tmp_path) -> CfgNode:
    # All images are alike, so that a resumed run sees the same batches whatever the order.
    DatasetCatalog.register("compat_line", lambda: [{"x": 0.5, "width": 2, "height": 2} for _ in range(4)])
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.META_ARCHITECTURE", "CompatLine", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
        + ["DATASETS.TRAIN", ("compat_line",), "DATASETS.TEST", ("compat_line",), "DATALOADER.NUM_WORKERS", 0]
        + ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 8, "SOLVER.BASE_LR", 0.1, "SOLVER.WARMUP_ITERS", 3]
        + ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.CHECKPOINT_PERIOD", 5, "TEST.EVAL_PERIOD", 4]
        + ["SEED", 1]
    )
    yield cfg
    DatasetCatalog.remove("compat_line")


def parameters(trainer: DefaultTrainer) -> list[float]:
    return [trainer.model.slope.item(), trainer.model.offset.item()]


def test_default_trainer_trains_and_resumes(cfg, tmp_path):
    """A run that stops after 5 of 8 iterations and is resumed ends where an undisturbed one does."""

    class Stop(HookBase):
        def before_step(self):
            if self.trainer.iter == 5:
                raise KeyboardInterrupt

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    trainer.train()
    undisturbed = parameters(trainer)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    last = [line for line in lines if "total_loss" in line][-1]
    assert last["iteration"] == 7 and {"loss_fit", "loss_decay", "lr", "data_time"} <= set(last)
    assert lines[-1]["iteration"] == 8 and "line/error" in lines[-1]  # the evaluation after the last iteration, 7
    assert any("line/error" in line and line["line/images"] == 4 for line in lines)
    assert (tmp_path / "out" / "model_final.pth").is_file() and (tmp_path / "out" / "model_0000004.pth").is_file()

    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    trainer = Trainer(cfg)
    trainer.register_hooks([Stop()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 5
    trainer.train()
    assert parameters(trainer) == pytest.approx(undisturbed, abs=1e-7)

    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "fresh")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0 and parameters(trainer) == pytest.approx(undisturbed, abs=1e-7)


def test_default_setup_writes_log_and_config(cfg, tmp_path):
    args = default_argument_parser().parse_args(["--eval-only", "--num-gpus", "2", "SEED", "3"])
    assert (args.num_gpus, args.resume, args.config_file, args.opts) == (2, False, "", ["SEED", "3"])
    default_setup(cfg, args)
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert again.SOLVER == cfg.SOLVER
    assert "Command line arguments" in (tmp_path / "out" / "log.txt").read_text()
    first = torch.rand(()).item()
    default_setup(cfg, args)
    assert torch.rand(()).item() == first


def test_hooks_are_called_in_order():
    calls = []

    class Named(HookBase):
        def __init__(self, name):
            self.name = name

        def before_train(self):
            calls.append(f"{self.name} before_train")

        def before_step(self):
            calls.append(f"{self.name} before {self.trainer.iter}")

        def after_backward(self):
            calls.append(f"{self.name} backward")

        def after_step(self):
            calls.append(f"{self.name} after {self.trainer.iter}")

        def after_train(self):
            calls.append(f"{self.name} after_train {self.trainer.iter}")

    model = nn.Linear(1, 1)
    wrapped = nn.Sequential(model)
    wrapped.forward = lambda batch: model(batch).sum()
    trainer = SimpleTrainer(wrapped, [torch.ones(1, 1)] * 2, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([Named("a"), None, Named("b")])
    trainer.train(3, 5)
    step = [["a before {0}", "b before {0}", "a backward", "b backward", "a after {0}", "b after {0}"]] * 2
    steps = [text.format(3 + n) for n, texts in enumerate(step) for text in texts]
    assert calls == ["a before_train", "b before_train", *steps, "a after_train 5", "b after_train 5"]


def test_infinite_loss_stops_the_training():
    model = nn.Linear(1, 1)
    wrapped = nn.Sequential(model)
    wrapped.forward = lambda batch: {"loss": model(batch).sum() * math.nan}
    trainer = SimpleTrainer(wrapped, [torch.ones(1, 1)], torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(FloatingPointError, match="iteration=0"):
        trainer.train(0, 1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("mode, kept", [("max", [1, 3]), ("min", [1, 2])])
def test_best_checkpoint_is_kept(tmp_path, mode, kept):
    saved = []

    class Recorder:
        def save(self, name, **extra):
            saved.append((name, extra["iteration"]))

    values = iter([0.5, 0.4, 0.6, 0.6])
    model = nn.Linear(1, 1)
    wrapped = nn.Sequential(model)
    wrapped.forward = lambda batch: model(batch).sum()
    trainer = SimpleTrainer(wrapped, [torch.ones(1, 1)] * 4, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks(
        [hooks.EvalHook(1, lambda: {"t": {"m": next(values)}}), hooks.BestCheckpointer(1, Recorder(), "t/m", mode)]
    )
    trainer.train(0, 4)
    assert saved == [("model_best", n - 1) for n in kept]


def test_eval_hook_demands_numbers():
    model = nn.Linear(1, 1)
    wrapped = nn.Sequential(model)
    wrapped.forward = lambda batch: model(batch).sum()
    trainer = SimpleTrainer(wrapped, [torch.ones(1, 1)], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"t": {"m": "high"}})])
    with pytest.raises(ValueError, match="t/m"):
        trainer.train(0, 1)


def test_callback_hook():
    calls = []
    model = nn.Linear(1, 1)
    wrapped = nn.Sequential(model)
    wrapped.forward = lambda batch: model(batch).sum()
    trainer = SimpleTrainer(wrapped, [torch.ones(1, 1)], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([hooks.CallbackHook(after_step=lambda t: calls.append(t.iter))])
    trainer.train(0, 1)
    assert calls == [0]


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


def test_checkpoint_round_trip(tmp_path):
    model, optimizer = nn.Linear(2, 2), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("part", iteration=4)
    other = nn.Linear(2, 2)
    momentum = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    checkpointer = DetectionCheckpointer(other, str(tmp_path), optimizer=momentum)
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file().endswith("part.pth")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 4
    assert torch.equal(other.weight, model.weight) and momentum.param_groups[0]["lr"] == 0.1
    third = nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    DetectionCheckpointer(third).load(str(tmp_path / "weights.pth"))
    assert torch.equal(third.bias, model.bias)


@pytest.mark.skipif(engine_name() != "bundled", reason="Detectron2 reads pickle files, and no safetensors")
def test_files_that_run_code_are_refused(tmp_path):
    from safetensors.torch import save_file

    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    model = nn.Linear(2, 2)
    torch.save({"model": model.state_dict(), "extra": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match="[Ww]eights"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "evil.pth"))
    (tmp_path / "zoo.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="zoo.pkl"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "zoo.pkl"))
    assert not (tmp_path / "ran").exists()
    save_file(model.state_dict(), str(tmp_path / "weights.safetensors"))
    loaded = nn.Linear(2, 2)
    DetectionCheckpointer(loaded).load(str(tmp_path / "weights.safetensors"))
    assert torch.equal(loaded.weight, model.weight)


def test_storage_smooths_over_iterations(tmp_path):
    with EventStorage(10) as storage:
        assert get_event_storage() is storage and has_event_storage()
        writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=3)
        for value in (9.0, 1.0, 2.0, 3.0):
            storage.put_scalar("loss", value)
            storage.put_scalar("lr", value, smoothing_hint=False)
            storage.step()
        with storage.name_scope("val"):
            storage.put_scalars(pq=0.5)
        assert storage.latest()["val/pq"] == (0.5, 14) and storage.count_samples("loss", 3) == 3
        writer.write()
        writer.close()
        with pytest.raises(AssertionError):
            storage.put_scalar("lr", 1.0)
    assert not has_event_storage()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"iteration": 13, "loss": 2.0, "lr": 3.0}, {"iteration": 14, "val/pq": 0.5}]


def test_inference_restores_the_mode():
    model = CompatLine(None)
    data = [[{"x": float(n)}] for n in range(7)]
    results = inference_on_dataset(model, data, [Error()])
    assert results == {"line": {"error": 7.0, "images": 7.0}} and model.training
    with inference_context(model):
        assert not model.training
    assert inference_on_dataset(model, data, None) == {}
    with pytest.raises(AssertionError, match="line"):
        evaluators = DatasetEvaluators([Error(), Error()])
        inference_on_dataset(model, data, evaluators)


def test_expected_results_are_verified():
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["line", "error", 1.0, 0.1]]
    assert verify(cfg, {"line": {"error": 1.05}})
    for wrong in ({"error": 1.2}, {"error": math.nan}, {}):
        with pytest.raises(SystemExit):
            verify(cfg, {"line": wrong})


def test_convolution_with_norm_and_activation():
    layer = Conv2d(3, 32, 3, padding=1, bias=False, norm=get_norm("GN", 32), activation=torch.relu)
    image = torch.randn(2, 3, 5, 5)
    plain = nn.functional.conv2d(image, layer.weight, padding=1)
    expected = nn.functional.group_norm(plain, 32, layer.norm.weight, layer.norm.bias).relu()
    assert torch.allclose(layer(image), expected)
    assert layer(image[:0]).shape == (0, 32, 5, 5)
    assert get_norm("", 4) is None and isinstance(get_norm("BN", 4), nn.BatchNorm2d)


def test_unknown_model_is_named():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "CompatNoSuchModel"
    with pytest.raises(KeyError, match="CompatNoSuchModel"):
        build_model(cfg)
