"""The index of a PSG file: the same data as from the JSON, and never another file's."""

from __future__ import annotations

import json
import logging
import os
import pickle

import pytest
from detectron2.data import get_detection_dataset_dicts

from usg_psg.data import PSGDatasetMapper, PSGTrainLoader, get_psg_metadata, load_psg_json, register_psg, unregister_psg
from usg_psg.data.psg_index import PSGRecords, index_path, open_index
from usg_psg.data.psg_json import SPLITS, write_index

from .psg_files import THINGS, content, record, write_images, write_json


@pytest.fixture
def path(tmp_path):
    entries = [record(str(i), 40 + i, 60) for i in range(60)]
    entries[3]["relations"].append([1, 1, 0])
    entries[4].update(segments_info=[], annotations=[], relations=[])
    entries[5]["file_name"] = "ünicode/日本.png"
    entries[6]["annotations"][0] = {"bbox": [1.25, 2, 10, 20], "bbox_mode": 1, "category_id": 0}
    entries[7]["image_id"] = 7
    return write_json(tmp_path, content(entries, ["1", 5, "7"]))


@pytest.mark.parametrize("split", SPLITS)
def test_same_data(path, tmp_path, split, caplog):
    with caplog.at_level(logging.WARNING):
        expected = load_psg_json(path, tmp_path, split)
        first, _ = caplog.text, caplog.clear()
        write_index(path)
        found = load_psg_json(path, tmp_path, split)
    assert isinstance(expected, list) and isinstance(found, PSGRecords)
    assert len(found) == len(expected) and list(found) == expected
    assert found[-1] == expected[-1] and found[:2] == expected[:2]
    assert json.dumps(found[0], default=str) == json.dumps(expected[0], default=str)  # types too
    # The same warnings, but for the line of the source.
    assert [x.split(" ", 3)[-1] for x in caplog.text.splitlines()] == [x.split(" ", 3)[-1] for x in first.splitlines()]
    with pytest.raises(IndexError):
        found[len(found)]


def test_index_is_read_instead_of_the_json(path, tmp_path, monkeypatch):
    write_index(path)

    def fail(*_):
        raise AssertionError("the JSON file was read")

    monkeypatch.setattr("usg_psg.data.psg_json.read_psg_json", fail)
    assert len(load_psg_json(path, tmp_path, "trainval")) == 57
    register_psg("indexed", path, tmp_path, "test")
    try:
        assert get_psg_metadata("indexed").thing_classes == THINGS
        assert isinstance(get_detection_dataset_dicts("indexed"), PSGRecords)
        both = get_detection_dataset_dicts(["indexed", "indexed"])
        assert len(both) == 6 and both[3]["image_id"] == "1"
    finally:
        unregister_psg("indexed")


def _stale(path, index):
    path.write_text(path.read_text().replace('"holding"', '"keeping"'))


def _touched(path, index):
    os.utime(path, ns=(1, 1))


def _truncated(path, index):
    index.write_bytes(index.read_bytes()[:-100])


def _flipped(path, index):
    data = bytearray(index.read_bytes())
    data[-50] ^= 1
    index.write_bytes(data)


def _foreign(path, index):
    index.write_bytes(b"\x80\x04 something else")


def _empty(path, index):
    index.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_stale, "has changed since"),
        (_touched, "has changed since"),
        (_truncated, "index ignored"),
        (_flipped, "its content is damaged"),
        (_foreign, "index ignored"),
        (_empty, "index ignored"),
    ],
)
def test_unusable_index_is_named_and_ignored(path, tmp_path, caplog, damage, reason):
    index = write_index(path)
    damage(path, index)
    with caplog.at_level(logging.WARNING):
        found = load_psg_json(path, tmp_path, "trainval")
    assert isinstance(found, list)
    assert str(index) in caplog.text and reason in caplog.text
    caplog.clear()
    assert write_index(path) == index  # made anew
    assert list(load_psg_json(path, tmp_path, "trainval")) == found and "ignored" not in caplog.text


def test_index_without_its_file(path, tmp_path):
    write_index(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no PSG file"):
        load_psg_json(path, tmp_path, "trainval")


def test_no_index_and_no_leftovers(path, tmp_path):
    assert open_index(path) is None
    write_index(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["psg.json", index_path("psg.json").name]


def test_records_in_another_process(path, tmp_path):
    write_index(path)
    records = load_psg_json(path, tmp_path, "trainval")
    data = pickle.dumps(records)
    assert len(data) < 3000
    copy = pickle.loads(data)
    assert list(copy) == list(records)
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match="not there any more or was changed"):
        pickle.loads(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_on_an_index(tmp_path, workers):
    entries = [record(str(i)) for i in range(6)]
    for entry in entries:
        write_images(tmp_path, entry)
    path = write_json(tmp_path, content(entries, []))
    write_index(path)
    mapper = PSGDatasetMapper(is_train=True, augmentations=[])
    loader = PSGTrainLoader(load_psg_json(path, tmp_path, "trainval"), mapper, 2, seed=0, num_workers=workers)
    batches = iter(loader)
    seen = {x["image_id"] for _ in range(9) for x in next(batches)}
    assert seen == {str(i) for i in range(6)}
