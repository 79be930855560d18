"""A few images learnt by heart through the ordinary trainer and evaluator.

Only if data, losses, inference, resizing, matching and ranking agree with each other does recall get there.
"""

import pytest

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, adapt_to_machine

SMALL = ["INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", "128", "DATALOADER.NUM_WORKERS", "0"]
FAST = ["MODEL.USG.LOSS.NUM_POINTS", "1024", "SOLVER.CHECKPOINT_PERIOD", "100000"]


def learn(output, *opts: str) -> tuple[dict, dict]:
    """Results of the untrained and of the trained model."""
    cfg = build_cfg("quickstart/overfit_psg.yaml", ["OUTPUT_DIR", str(output), "SEED", "1", *SMALL, *FAST, *opts])
    adapt_to_machine(cfg)
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    before = Trainer.test(cfg, trainer.model)
    trainer.train()
    return before["sgdet"], Trainer.test(cfg, trainer.model)["sgdet"]


@pytest.mark.slow
def test_generated_scenes(tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=3, num_val=1, size=(128, 160), preset="easy", seed=3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = "('psg_shapes_train',)"
    queries = ["MODEL.USG.MASK_DECODER.NUM_QUERIES", "16", "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "60"]
    before, after = learn(
        tmp_path / "run", "DATASETS.TRAIN", name, "DATASETS.TEST", name, "SOLVER.MAX_ITER", "220", *queries
    )
    assert before["single/R@20"] < 10
    assert after["openpsg/R@20"] >= 90
    assert after["single/R@20"] >= 80
    assert after["oracle/pairs@50"] >= 90


@pytest.mark.slow
def test_real_photographs(psg_mini, tmp_path, monkeypatch):
    """The short form; `overfit_psg.yaml` as it is takes R@20 above 95."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(psg_mini))
    before, after = learn(tmp_path, "SOLVER.MAX_ITER", "300", "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "100")
    assert before["single/R@20"] < 2
    assert after["openpsg/R@20"] >= 60, after
