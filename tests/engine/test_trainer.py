"""What a trainer leaves behind."""

import multiprocessing

import pytest
from detectron2.engine import HookBase

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, adapt_to_machine

SMALL = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "64"]
SMALL += ["INPUT.USG.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)", "TEST.EVAL_PERIOD", "0"]
SMALL += ["DATALOADER.NUM_WORKERS", "1"]


class Fail(HookBase):
    def after_step(self):
        assert multiprocessing.active_children(), "the loader's process"
        raise ValueError("in the first step")


@pytest.mark.parametrize("fails", [False, True])
def test_the_loaders_processes_end_with_the_training(fails, tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=4, num_val=1, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", [*SMALL, "OUTPUT_DIR", str(tmp_path / "run")])
    cfg.DATASETS.TEST = ()
    adapt_to_machine(cfg)
    before = set(multiprocessing.active_children())
    trainer = Trainer(cfg)
    if fails:
        trainer.register_hooks([Fail()])
        with pytest.raises(ValueError, match="in the first step"):
            trainer.train()
    else:
        trainer.train()
    assert set(multiprocessing.active_children()) <= before
