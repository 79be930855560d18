"""Images that are unusual but no problem go through training and evaluation: none is lost, none stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from usg_psg.config import build_cfg
from usg_psg.data import register_psg, unregister_psg
from usg_psg.engine import Trainer

from .cli.bad_runs import RECIPE
from .data.psg_files import content, record, write_images, write_json
from .data.validation.bad_cases import WARNINGS
from .programs import ROOT


@pytest.fixture
def odd(tmp_path):
    """A registered data set, `odd`, of one image for every note of the check; their number."""
    entries = []
    for number, case in enumerate(WARNINGS.values()):
        entry = record(str(number))
        write_images(tmp_path, entry)
        case.edit(entry)
        case.spoil(tmp_path / entry["file_name"], tmp_path / entry["pan_seg_file_name"])
        entries.append(entry)
    register_psg("odd", write_json(tmp_path, content(entries, [])), tmp_path, "trainval")
    yield len(entries)
    unregister_psg("odd")


@pytest.fixture
def cfg(odd, tmp_path):
    opts = ["DATASETS.TRAIN", "('odd',)", "DATASETS.TEST", "('odd',)", "MODEL.DEVICE", "cpu", "SEED", "0"]
    opts += ["OUTPUT_DIR", str(tmp_path / "run"), "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "3"]
    opts += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.USG.LOSS.NUM_POINTS", "64"]
    return build_cfg(str(ROOT / RECIPE), [*opts, "SOLVER.AMP.ENABLED", "False"])


@pytest.mark.slow
def test_training_and_evaluation(cfg, odd):
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    samples = trainer.data_loader.samples
    image_ids = {samples[position, position]["image_id"] for position in range(odd)}
    assert image_ids == {str(number) for number in range(odd)}
    with EventStorage():
        for _ in range(-(-odd // cfg.SOLVER.IMS_PER_BATCH)):  # once through the data set
            trainer.run_step()
    trainer.test(cfg, trainer.model)
    results = json.loads((Path(cfg.OUTPUT_DIR) / "inference" / "sgdet_odd.json").read_text())
    assert results["counts"]["images"] == odd

    cfg.TEST.TASK = "predcls"  # which also reads the annotations of test images
    trainer.test(cfg, trainer.model)
    results = json.loads((Path(cfg.OUTPUT_DIR) / "inference" / "predcls_odd.json").read_text())
    assert results["counts"]["images"] == odd


def test_images_without_relations_alone(cfg, tmp_path):
    """A batch in which nothing is related has losses all the same."""
    entry = record("x")
    write_images(tmp_path, entry)
    entry["relations"] = []
    register_psg("unrelated", write_json(tmp_path / "train2017", content([entry], [])), tmp_path, "trainval")
    try:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("unrelated",)
        trainer = Trainer(cfg)
        with EventStorage() as storage:
            trainer.run_step()
            assert storage.latest()["total_loss"][0] > 0
        trainer.test(cfg, trainer.model)
    finally:
        unregister_psg("unrelated")
