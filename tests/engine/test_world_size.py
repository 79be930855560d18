"""SOLVER.REFERENCE_WORLD_SIZE: batch, learning rate and schedule for another number of processes; on both engines."""

import pytest
from detectron2.engine import DefaultTrainer

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, adapt_to_machine


def written_for_eight():
    opts = ["SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.STEPS", "(40000,)", "SOLVER.MAX_ITER", "60000"]
    opts += ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.CHECKPOINT_PERIOD", "5000", "TEST.EVAL_PERIOD", "5000"]
    cfg = build_cfg("psg/usg_par_convnext_large.yaml", opts)
    cfg.freeze()
    return cfg


@pytest.mark.parametrize(
    "processes, batch, rate, steps, warmup, period",
    [(2, 4, 0.00025, 240000, 4000, 20000), (8, 16, 0.001, 60000, 1000, 5000), (32, 64, 0.004, 15000, 250, 1250)],
)
def test_the_batch_per_process_stays(processes, batch, rate, steps, warmup, period):
    scaled = DefaultTrainer.auto_scale_workers(written_for_eight(), processes)
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.WARMUP_ITERS) == (batch, steps, warmup)
    assert solver.BASE_LR == pytest.approx(rate)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (period, period)
    assert solver.STEPS == (steps * 2 // 3,)
    assert solver.REFERENCE_WORLD_SIZE == processes
    assert solver.IMS_PER_BATCH * solver.MAX_ITER == 16 * 60000, "as many images in all"
    assert scaled.is_frozen()


def test_zero_scales_nothing():
    cfg = build_cfg("psg/usg_par_released.yaml")
    assert DefaultTrainer.auto_scale_workers(cfg, 4).SOLVER.IMS_PER_BATCH == 8


def test_the_trainer_and_its_loader_follow(tmp_path, monkeypatch):
    """A recipe for four processes on one, whose batch goes through the model in two parts."""
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=4, num_val=1, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = ["SOLVER.REFERENCE_WORLD_SIZE", "4", "SOLVER.IMS_PER_BATCH", "32", "SOLVER.BASE_LR", "0.004"]
    opts += ["SOLVER.MAX_ITER", "100", "SOLVER.WARMUP_ITERS", "0", "SOLVER.ACCUMULATION_STEPS", "2"]
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", [*opts, "OUTPUT_DIR", str(tmp_path / "run")])
    adapt_to_machine(cfg)
    trainer = Trainer(cfg)
    assert trainer.max_iter == 400
    stream = trainer.data_loader.stream
    assert (stream.batch_size, stream.steps_per_update) == (4, 2)
    assert trainer.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.001)
    assert cfg.SOLVER.IMS_PER_BATCH == 32, "the caller's config stays"
