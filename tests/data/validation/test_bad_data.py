"""What a damaged data set gets: the loader stops with one exact message, and check_dataset says the same."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from usg_psg.data import PSGDatasetMapper, load_psg_json
from usg_psg.data.psg_json import write_index
from usg_psg.data.validation import records as records
from usg_psg.data.validation.check_dataset import check_dataset
from usg_psg.data.validation.repair import repair_dataset
from usg_psg.evaluation.records import ground_truth

from ..psg_files import IDS, content, record, write_images, write_json
from .bad_cases import FILES, IMAGES, MENDED, RECORDS, WARNINGS, build, write_ids


def load(path, root, **kwargs):
    """Everything that training would read."""
    mapper = PSGDatasetMapper(is_train=True, augmentations=[], **kwargs)
    dicts = load_psg_json(path, root, "trainval", policy=kwargs.get("bad_sample", "error"))
    return [mapper(each) for each in dicts]


def all_texts(report, severity):
    """Messages of the report's examples of a severity."""
    examples = [problem for found in report.examples.values() for _, problem in found]
    return [problem.describe(report.json_file) for problem in examples if problem.severity == severity]


@pytest.mark.parametrize("name", [*IMAGES, *RECORDS])
def test_error(name, tmp_path):
    case = (IMAGES | RECORDS)[name]
    path, paths = build(case, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(path, tmp_path)
    message, expected = str(error.value), case.message.format(**paths)
    assert message == expected or (expected.endswith("…") and message.startswith(expected[:-1]))
    report = check_dataset(path, tmp_path, workers=0)
    assert message in all_texts(report, "error")
    assert report.num_checked == 3 and report.images == (0 if name == "duplicate_image_id" else 1)


@pytest.mark.parametrize("name", [*IMAGES, *RECORDS])
def test_error_is_skipped(name, tmp_path, caplog):
    case = (IMAGES | RECORDS)[name]
    path, _ = build(case, tmp_path)
    with caplog.at_level(logging.WARNING):
        samples = load(path, tmp_path, bad_sample="skip")
    assert [s["image_id"] for s in samples if s is not None] == ["5", "7"]
    expected = {"duplicate_image_id": "'5'", "missing_key": "'66'"}.get(name, "'66'")
    assert expected in caplog.text


@pytest.mark.parametrize("name", RECORDS)
def test_error_with_index(name, tmp_path):
    case = RECORDS[name]
    path, paths = build(case, tmp_path)
    write_index(path)
    with pytest.raises(ValueError) as error:
        load_psg_json(path, tmp_path, "trainval")
    assert str(error.value) == case.message.format(**paths)
    assert [d["image_id"] for d in load_psg_json(path, tmp_path, "trainval", policy="skip")] == ["5", "7"]


@pytest.mark.parametrize("name", WARNINGS)
def test_warning(name, tmp_path):
    case = WARNINGS[name]
    path, paths = build(case, tmp_path)
    samples = load(path, tmp_path)
    assert [s["image_id"] for s in samples] == ["5", "66", "7"]
    assert (len(samples[1]["instances"]), len(samples[1]["relations"])) == case.kept
    report = check_dataset(path, tmp_path, workers=0)
    assert case.message.format(**paths) in all_texts(report, "warning")
    assert report.num_errors == 0


@pytest.mark.parametrize("name", MENDED)
def test_mended(name, tmp_path, caplog):
    case = MENDED[name]
    path, paths = build(case, tmp_path)
    message = case.message.format(**paths)
    mapper = PSGDatasetMapper(is_train=True, augmentations=[])
    samples = [mapper(each) for each in load_psg_json(path, tmp_path, "trainval")]
    assert [s["image_id"] for s in samples] == ["5", "66", "7"]
    assert (len(samples[1]["instances"]), len(samples[1]["relations"])) == case.kept
    if name.endswith("_relation"):
        assert f"split trainval: 1 {records.MENDED[name]}" in caplog.text
    else:
        assert mapper.skipped_samples.summary() == f"1 {records.MENDED[f'{name}_png']} (image_id '66')"
    report = check_dataset(path, tmp_path, workers=0)
    assert message in all_texts(report, "mended") and report.num_errors == 0
    with pytest.raises(ValueError) as error:
        load(path, tmp_path, bad_sample="strict")
    assert str(error.value) == message
    write_index(path)
    assert [mapper(each)["relations"].tolist() for each in load_psg_json(path, tmp_path, "trainval")] == [
        sample["relations"].tolist() for sample in samples
    ]


def test_evaluation_mends_too(tmp_path, caplog):
    """A segment without a pixel leaves the annotation with its relations; ids of nobody are unlabelled."""
    entry = record("5")
    write_images(tmp_path, entry)
    write_ids(tmp_path / entry["pan_seg_file_name"], [IDS[0], 9, *IDS[2:]])
    (each,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")
    gt = ground_truth(each)
    assert gt.labels.tolist() == [0, 1, 2] and gt.is_crowd.tolist() == [False] * 3
    assert gt.triplets.tolist() == [[0, 2, 0], [1, 2, 2], [0, 1, 3]]
    assert gt.label_map[10, [10, 50]].tolist() == [1, 0] and gt.label_map[40, [10, 50]].tolist() == [2, 3]
    assert "lacks the ids 9 of" in caplog.text and "lacks the ids 7 of" in caplog.text


@pytest.mark.parametrize("name", FILES)
def test_file(name, tmp_path):
    text, message = FILES[name]
    path = tmp_path / "psg.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load_psg_json(path, tmp_path, "test")
    assert str(error.value) == message.format(json=path)
    report = check_dataset(path, tmp_path, workers=0)
    assert message.format(json=path) in all_texts(report, "error")


@pytest.mark.parametrize("name", [*IMAGES, *RECORDS, *MENDED, *WARNINGS])
def test_fix(name, tmp_path):
    case = (IMAGES | RECORDS | MENDED | WARNINGS)[name]
    path, _ = build(case, tmp_path)
    before = path.read_bytes()
    fixed, changes = repair_dataset(path, tmp_path, workers=0)
    assert path.read_bytes() == before
    clean = tmp_path / "clean.json"
    clean.write_text(json.dumps(fixed))
    assert check_dataset(clean, tmp_path, workers=0).num_errors == 0
    kept = {r["image_id"]: (len(r["segments_info"]), len(r["relations"])) for r in fixed["data"]}
    assert kept == {"5": (4, 4), "7": (4, 4)} | ({} if case.kept is None else {"66": case.kept})
    if name not in WARNINGS and name != "unlisted_ids":  # which the JSON file cannot mend
        assert changes and all(c.image_id in ("66", "#1", "5") for c in changes)
        assert [c.what for c in changes].count("image") == (case.kept is None)
    else:
        assert changes == []
    assert len(load(clean, tmp_path)) == len(kept)


def test_fix_without_the_folder_of_pictures(tmp_path):
    path, _ = build(RECORDS["predicate"], tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*coco"):
        repair_dataset(path, tmp_path / "coco", workers=0)


def test_fix_renumbers_relations(tmp_path):
    entry = record("5")
    write_images(tmp_path, entry)
    entry["segments_info"].insert(1, {"id": 9, "category_id": 99, "iscrowd": 0, "isthing": 1, "area": 5})
    entry["annotations"].insert(1, {"bbox": [0, 0, 1, 1], "bbox_mode": 0, "category_id": 99})
    entry["relations"] = [[0, 2, 1], [1, 2, 0], [3, 7, 0], [4, 3, 2], [2, 2, 0]]
    path = tmp_path / "psg.json"
    path.write_text(json.dumps({**content([entry], ["5", 77]), "comment": "kept"}))
    fixed, changes = repair_dataset(path, tmp_path, workers=0)
    assert fixed["data"][0]["relations"] == [[0, 1, 1], [3, 2, 2]]
    assert [s["category_id"] for s in fixed["data"][0]["segments_info"]] == [0, 0, 1, 2]
    assert (fixed["test_image_ids"], fixed["comment"]) == (["5"], "kept")
    assert [dataclasses.astuple(c) for c in changes] == [
        ("relation", "5", "data[0].relations[2]", "object 7 is no position in segments_info (0..4)"),
        ("relation", "5", "data[0].relations[4]", "segment 2 is related to itself"),
        ("segment", "5", "data[0].segments_info[1]", "the panoptic PNG has no pixel of its id 9"),
        ("relation", "5", "data[0].relations[1]", "it relates segment 1, which was removed"),
        ("test_image_id", "77", "test_image_ids[1]", "there is no image of this id in data"),
    ]
    entry["height"] = 3
    path.write_text(json.dumps(content([entry], [])))
    with pytest.raises(ValueError, match="no image is left"):
        repair_dataset(path, tmp_path, workers=0)
