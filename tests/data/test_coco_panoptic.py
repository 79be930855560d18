"""COCO's panoptic annotation in PSG's form: what is written, and that objects alone train on it."""

import json

import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.data.coco_panoptic import convert_coco_panoptic
from usg_psg.data.psg_json import load_psg_json
from usg_psg.data.validation.check_dataset import check_dataset
from usg_psg.engine import Trainer, adapt_to_machine

from ..toy_psg import SMALL, make_datasets, words


def convert(root, output, exclude=None):
    train, test = (root / "coco" / "annotations" / f"panoptic_{part}2017.json" for part in ("train", "val"))
    return convert_coco_panoptic(train, output, test_json=test, exclude=exclude)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    make_datasets(folder)
    convert(folder, folder / "psg" / "coco_panoptic.json")
    return folder


def test_the_same_segments_without_relations(root):
    own = load_psg_json(root / "psg" / "coco_panoptic.json", root / "coco", "trainval")
    psg = load_psg_json(root / "psg" / "psg.json", root / "coco", "trainval")
    assert [{**record, "relations": []} for record in psg] == own
    assert len(load_psg_json(root / "psg" / "coco_panoptic.json", root / "coco", "test")) == 3
    assert check_dataset(root / "psg" / "coco_panoptic.json", root / "coco", workers=1).num_errors == 0


def test_images_that_psg_tests_on_can_be_left_out(root, tmp_path):
    content = json.loads((root / "psg" / "psg.json").read_text())
    content["test_image_ids"].append(content["data"][1]["image_id"])
    (tmp_path / "psg.json").write_text(json.dumps(content))
    output = tmp_path / "coco_panoptic.json"
    assert convert(root, output, tmp_path / "psg.json")["excluded"] == 1
    left = [record["file_name"] for record in json.loads(output.read_text())["data"]]
    assert content["data"][1]["file_name"] not in left and len(left) == len(content["data"]) - 1


@pytest.mark.slow
def test_objects_train_alone_and_start_the_best_recipe(root, tmp_path, monkeypatch):
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
    assert changed == {"pixel_decoder", "mask_decoder", "class_head", "mask_pilot"}
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
