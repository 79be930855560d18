"""What a trainer leaves behind."""

import importlib.util
import json
import multiprocessing
import sysconfig
from typing import ClassVar

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase

from usg_psg.config import build_cfg
from usg_psg.data import register_psg, unregister_psg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import TimeLimitHook, Trainer, adapt_to_machine
from usg_psg.engine.loggers import LOGGERS, RunLogger
from usg_psg.engine.trainer import novel_names, training_relations
from usg_psg.modeling.compile import missing_for_kernels

SMALL = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "64"]
SMALL += ["INPUT.USG.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)", "TEST.EVAL_PERIOD", "0"]
SMALL += ["DATALOADER.NUM_WORKERS", "1"]


@pytest.fixture
def cfg(tmp_path, monkeypatch) -> CfgNode:
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=4, num_val=1, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", [*SMALL, "OUTPUT_DIR", str(tmp_path / "run")])
    cfg.DATASETS.TEST = ()
    adapt_to_machine(cfg)
    return cfg


class Fail(HookBase):
    def after_step(self):
        assert multiprocessing.active_children(), "the loader's process"
        raise ValueError("in the first step")


@pytest.mark.parametrize("fails", [False, True])
def test_the_loaders_processes_end_with_the_training(fails, cfg):
    before = set(multiprocessing.active_children())
    trainer = Trainer(cfg)
    if fails:
        trainer.register_hooks([Fail()])
        with pytest.raises(ValueError, match="in the first step"):
            trainer.train()
    else:
        trainer.train()
    assert set(multiprocessing.active_children()) <= before


def test_a_training_out_of_time_ends_as_any_other(cfg, tmp_path):
    cfg.SOLVER.MAX_ITER = 9
    trainer = Trainer(cfg)
    trainer.register_hooks([TimeLimitHook(1e-9)])
    assert trainer.train() == {}
    assert trainer.iter == 2 and len((tmp_path / "run" / "losses.jsonl").read_text().splitlines()) == 2
    assert trainer.checkpointer.get_checkpoint_file() == str(tmp_path / "run" / "model_final.pth")


class Notes(RunLogger):
    name = "json"  # a package that is there
    runs: ClassVar[dict[str, dict]] = {}

    def start(self, run, config):
        self.notes = self.runs.setdefault(run or "first", {"config": config, "iterations": []})
        return run or "first"

    def log(self, scalars, iteration):
        self.notes["iterations"].append((iteration, "total_loss" in scalars))

    def finish(self):
        self.notes["finished"] = True


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_its_run(cfg, monkeypatch):
    monkeypatch.setitem(LOGGERS, "mlflow", Notes)
    cfg.LOGGERS = ["mlflow"]
    Trainer(cfg).train()
    cfg.SOLVER.MAX_ITER = 3
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    (run,) = Notes.runs.values()
    assert run["finished"] and run["config"]["SOLVER.MAX_ITER"] == 2
    assert [iteration for iteration, has_loss in run["iterations"] if has_loss] == [1, 2]


@pytest.mark.slow
def test_a_moving_average_that_is_switched_on_later_starts_from_the_weights(cfg, caplog):
    cfg.DATALOADER.NUM_WORKERS = 0
    Trainer(cfg).train()
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.MAX_ITER = 4
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2 and "no moving average" in caplog.text
    for parameter, average in zip(trainer.ema.parameters, trainer.ema.averages, strict=True):
        assert torch.equal(parameter, average)
    trainer.train()
    caplog.clear()
    cfg.SOLVER.MAX_ITER = 5
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 4 and "no moving average" not in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(again.ema.averages, trainer.ema.averages, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(again.ema.averages, again.ema.parameters, strict=True))


def test_resuming_from_weights_alone_is_refused_and_the_logs_stay(cfg, tmp_path):
    trainer = Trainer(cfg)
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    torch.save({"model": trainer.model.state_dict()}, run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    logs = {run / name: '{"iteration": 0}\n{"iteration": 1}\n' for name in ("losses.jsonl", "metrics.json")}
    for path, text in logs.items():
        path.write_text(text)
    with pytest.raises(ValueError, match="no state of a training run"):
        trainer.resume_or_load(resume=True)
    assert {path: path.read_text() for path in logs} == logs


def test_checkpoints_record_what_the_run_and_those_before_it_were_trained_on(cfg, tmp_path):
    first = Trainer(cfg)  # held: its checkpointer refers to it weakly
    first.checkpointer.save("first")
    data = torch.load(tmp_path / "run" / "first.pth", weights_only=True)
    assert data["trained_on"]["data"] == {"psg_shapes_train": "generated"}
    assert set(data["trained_on"]["phrases"]["predicates"]) >= {"on", "beside"}
    data["trained_on"]["data"] = {"photographs": "other"}
    torch.save(data, tmp_path / "earlier.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "earlier.pth")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.checkpointer.save("second")
    data = torch.load(tmp_path / "run" / "second.pth", weights_only=True)
    assert data["trained_on"]["data"] == {"photographs": "other", "psg_shapes_train": "generated"}


def test_the_evaluator_gets_the_relations_of_the_training_data(cfg, tmp_path, caplog):
    evaluator = Trainer.build_evaluator(cfg, "psg_shapes_val")
    assert evaluator.training is None and evaluator.novel is None
    cfg.TEST.USG.FREQUENCY_BASELINE = True
    training = Trainer.build_evaluator(cfg, "psg_shapes_val").training
    records = DatasetCatalog.get("psg_shapes_train")
    relations = {(r["image_id"], *row) for r in records for row in r["relations"]}
    assert len(records) == 4 and training.relations.sum() == len(relations) > 0
    assert training.pairs.sum() == sum(len(r["segments_info"]) * (len(r["segments_info"]) - 1) for r in records)

    # Left out, with a line, where the training data are of another vocabulary, or not there.
    path = tmp_path / "psg_shapes" / "psg" / "psg.json"
    words = json.loads(path.read_text())
    words["predicate_classes"][0] = "another"
    (path.parent / "other.json").write_text(json.dumps(words))
    register_psg("other_words", path.parent / "other.json", path.parent.parent / "coco", "train")
    cfg.DATASETS.TRAIN = ("other_words",)
    evaluator = Trainer.build_evaluator(cfg, "psg_shapes_val")
    assert evaluator.training is None
    assert np.flatnonzero(evaluator.novel.predicates).tolist() == [0] and not evaluator.novel.classes.any()
    unregister_psg("other_words")
    assert "zR and the frequency baseline are left out: DATASETS.TRAIN ('other_words',) has no relations" in caplog.text
    path.unlink()
    cfg.DATASETS.TRAIN = ("psg_shapes_train",)
    caplog.clear()
    assert training_relations(cfg.DATASETS.TRAIN, "psg_test") is None
    assert "zR and the frequency baseline are left out: " in caplog.text
    assert novel_names(("psg_shapes_train_seen",), "psg_test") is None, "there is no such file"


@pytest.mark.parametrize("mode", ["kernels", "kernels+graphs", "graphs"])
def test_nothing_is_compiled_without_a_compiler(mode, cfg, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg.MODEL.DEVICE, cfg.MODEL.USG.COMPILE = "cuda", mode
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "Python.h").touch()
    for name in ("gcc", "Python.h"):
        (tmp_path / "gcc").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        assert missing_for_kernels() == ""
        adapt_to_machine(cfg)
        assert cfg.MODEL.USG.COMPILE == mode and "in place of" not in caplog.text
        (tmp_path / name).unlink()
        if name == "gcc":
            assert "C compiler" in missing_for_kernels()
    assert "Python.h" in missing_for_kernels()
    adapt_to_machine(cfg)
    assert cfg.MODEL.USG.COMPILE == {"kernels": "none"}.get(mode, "graphs")
    assert ("MODEL.USG.COMPILE is" in caplog.text) == (mode != "graphs")
