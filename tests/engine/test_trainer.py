"""What a trainer leaves behind."""

import multiprocessing

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, adapt_to_machine

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
