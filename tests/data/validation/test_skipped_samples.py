"""DATALOADER.BAD_SAMPLES: what training leaves out is counted and named, evaluation leaves nothing out."""

from __future__ import annotations

import logging

import pytest
from detectron2.data import DatasetCatalog

from usg_psg.config import build_cfg
from usg_psg.data import (
    PSGDatasetMapper,
    bad_record_policy,
    build_psg_train_loader,
    load_psg_json,
    register_psg,
    unregister_psg,
)
from usg_psg.data.psg_mapper import MAX_FAILURES_IN_A_ROW
from usg_psg.data.validation.records import MENDED
from usg_psg.data.validation.skipped_samples import SkippedSamples
from usg_psg.engine import Trainer
from usg_psg.engine.hooks import SkippedSamplesReport

from ..psg_files import IDS, content, record, write_images, write_json
from .bad_cases import cut_png, write_ids


@pytest.fixture
def damaged(tmp_path):
    """A registered data set of twelve images: one bad record, two bad pictures."""
    entries = [record(str(i)) for i in range(12)]
    for entry in entries:
        write_images(tmp_path, entry)
    entries[2]["relations"].append([0, 1, 99])
    path = write_json(tmp_path, content(entries, ["10", "11"]))
    cut_png(tmp_path / entries[4]["file_name"])
    (tmp_path / entries[6]["pan_seg_file_name"]).unlink()
    register_psg("damaged_train", path, tmp_path, "trainval")
    register_psg("damaged_test", path, tmp_path, "test")
    yield tmp_path
    unregister_psg("damaged_train")
    unregister_psg("damaged_test")


def config(*opts):
    return build_cfg(
        "",
        [
            "DATASETS.TRAIN",
            "('damaged_train',)",
            "DATASETS.TEST",
            "('damaged_test',)",
            "INPUT.USG.IMAGE_SIZE",
            "64",
            "SOLVER.IMS_PER_BATCH",
            "2",
            *opts,
        ],
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_without_bad_samples(damaged, caplog, workers):
    cfg = config("DATALOADER.BAD_SAMPLES", "skip", "DATALOADER.NUM_WORKERS", str(workers))
    with caplog.at_level(logging.WARNING):
        loader = build_psg_train_loader(cfg)
    assert "damaged_train" not in caplog.text and "1 invalid images skipped (predicate_range 1): '2'" in caplog.text
    batches = iter(loader)
    seen = {x["image_id"] for _ in range(40) for x in next(batches)}
    assert seen == {"0", "1", "3", "5", "7", "8", "9"}
    assert set(loader.skipped_samples.read()) == {"4", "6"}
    caplog.clear()
    SkippedSamplesReport(loader.skipped_samples).after_train()
    (line,) = caplog.messages
    assert line.startswith("2 images were skipped in training (image_id ") and "'4'" in line and "'6'" in line
    assert "; the first: " in line


def test_training_stops_by_default(damaged):
    with pytest.raises(ValueError, match="image_id '2', relations.4.: predicate 99"):
        build_psg_train_loader(config())
    cfg = config("DATALOADER.BAD_SAMPLES", "skip", "DATALOADER.NUM_WORKERS", "0")
    mapper = PSGDatasetMapper(config(), is_train=True)
    with bad_record_policy(cfg.DATALOADER.BAD_SAMPLES):
        dicts = {d["image_id"]: d for d in DatasetCatalog.get("damaged_train")}
    with pytest.raises(ValueError, match="'4'.*truncated"):
        mapper(dicts["4"])
    with pytest.raises(ValueError, match="BAD_SAMPLES: expected 'error', 'skip', 'strict', got 'ignore'"):
        build_psg_train_loader(config("DATALOADER.BAD_SAMPLES", "ignore", "DATALOADER.NUM_WORKERS", "0"))


@pytest.mark.parametrize("what", ["image", "record"])
def test_evaluation_stops_all_the_same(damaged, what):
    cfg = config("DATALOADER.BAD_SAMPLES", "skip", "DATALOADER.NUM_WORKERS", "0")
    if what == "image":
        cut_png(damaged / "train2017/11.png")
        with pytest.raises(ValueError, match="'11'.*truncated"):
            list(Trainer.build_test_loader(cfg, "damaged_test"))
    else:
        path = damaged / "psg.json"
        path.write_text(path.read_text().replace('["10", "11"]', '["10", "2"]'))
        with pytest.raises(ValueError, match="image_id '2', relations.4.: predicate 99"):
            Trainer.build_test_loader(cfg, "damaged_test")
    with pytest.raises(ValueError, match="'skip' is for training only"):
        PSGDatasetMapper(is_train=False, augmentations=[], bad_sample="skip")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_mended_is_counted(tmp_path, caplog, workers):
    """Once in the log of a training, whichever processes read the pictures; "strict" refuses instead."""
    entries = [record(str(i)) for i in range(6)]
    for entry in entries:
        write_images(tmp_path, entry)
    write_ids(tmp_path / entries[1]["pan_seg_file_name"], [*IDS[:3], 9])  # the last segment has no pixel, 9 no segment
    entries[2]["relations"] += [[0, 3, 0], [2, 2, 0]]
    register_psg("mended", write_json(tmp_path, content(entries, [])), tmp_path, "trainval")
    try:
        opts = ("DATASETS.TRAIN", "('mended',)", "DATALOADER.NUM_WORKERS", str(workers))
        loader = build_psg_train_loader(config(*opts))
        for kind in ("self_relation", "duplicate_relation"):
            assert caplog.text.count(f"psg.json, split trainval: 1 {MENDED[kind]}") == 1
        batches = iter(loader)
        (sample,) = {x["image_id"]: x for _ in range(12) for x in next(batches) if x["image_id"] == "1"}.values()
        assert len(sample["instances"]) <= 3 and (sample["relations"][:, :2] < 3).all()
        caplog.clear()
        SkippedSamplesReport(loader.skipped_samples).after_train()
        kinds = ("unlisted_ids_png", "ids_without_pixels_png")
        assert caplog.messages == ["; ".join(f"1 {MENDED[kind]} (image_id '1')" for kind in kinds)]
        with pytest.raises(ValueError, match="image_id '2', relations.4.: the same as relations.0."):
            build_psg_train_loader(config(*opts, "DATALOADER.BAD_SAMPLES", "strict"))
    finally:
        unregister_psg("mended")


def test_policy_ends_with_its_block(damaged):
    with bad_record_policy("skip"):
        assert len(DatasetCatalog.get("damaged_train")) == 9
    with pytest.raises(ValueError, match="predicate 99"):
        DatasetCatalog.get("damaged_train")


def test_nothing_but_failures_stops(tmp_path):
    entry = record("5")
    path = write_json(tmp_path, content([entry], []))  # no picture at all
    (dataset_dict,) = load_psg_json(path, tmp_path, "trainval")
    mapper = PSGDatasetMapper(is_train=True, augmentations=[], bad_sample="skip")
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        assert mapper(dataset_dict) is None
    with pytest.raises(ValueError, match="100 images in a row cannot be used, the last one: .*no such file"):
        mapper(dataset_dict)


def test_list_of_images():
    skipped = SkippedSamples()
    assert skipped.summary() == ""
    assert skipped.add("b", "bad\nnews") and not skipped.add("b", "again") and skipped.add("b", "x", "unlisted_ids_png")
    assert skipped.take_new() == [("b", "bad\nnews", ""), ("b", "x", "unlisted_ids_png")] and skipped.take_new() == []
    for i in range(9):
        skipped.add(f"n{i}", "")
    assert skipped.read() == {"b": "bad\nnews"} | {f"n{i}": "" for i in range(9)}
    expected = "10 images were skipped in training (image_id 'b', 'n0', 'n1', 'n2', 'n3', ...); the first: bad\nnews"
    assert skipped.summary() == f"1 {MENDED['unlisted_ids_png']} (image_id 'b'); {expected}"
