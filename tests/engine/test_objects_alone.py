"""Objects alone, on COCO's panoptic annotation: they train, and the best recipe starts from them."""

import json

import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.engine import Trainer, adapt_to_machine
from usg_psg_cli import program

from ..toy_psg import SMALL, make_datasets, words


@pytest.mark.slow
def test_objects_train_alone_and_start_the_best_recipe(tmp_path, monkeypatch):
    root = tmp_path / "datasets"
    make_datasets(root)
    coco = root / "coco" / "annotations"
    files = "--json", str(coco / "panoptic_train2017.json"), "--test-json", str(coco / "panoptic_val2017.json")
    program("import")(["coco-panoptic", *files, "--output", str(root / "psg" / "coco_panoptic.json")])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    opts = [*words(SMALL), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0"]
    cfg = build_cfg("coco/usg_par_coco_panoptic.yaml", opts)
    adapt_to_machine(cfg)
    trainer = Trainer(cfg)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"pixel_decoder", "mask_decoder", "class_head"}
    results = json.loads((tmp_path / "inference" / "sgdet_coco_panoptic_val.json").read_text())
    assert results["counts"]["images"] == 3 and results["panoptic"]["PQ"] is not None
    line = json.loads((tmp_path / "losses.jsonl").read_text().splitlines()[-1])
    assert line["loss_pair"] == line["loss_predicate"] == 0 < line["loss_mask"]
    best = build_cfg("psg/usg_par_best.yaml", [*opts, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")])
    adapt_to_machine(best)
    follower = Trainer(best)
    follower.resume_or_load(resume=False)
    for name, value in follower.model.state_dict().items():
        assert torch.equal(value, after[name]), name
