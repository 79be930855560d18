"""The reader of psg.json: splits, ids, boxes, and an error for every problem."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest

from usg_psg.data import load_psg_json, read_psg_json
from usg_psg.data.psg_json import select_split, write_index
from usg_psg.data.validation.check_dataset import validate_file
from usg_psg.data.validation.repair import repair_dataset
from usg_psg.data.validation.statistics import dataset_statistics
from usg_psg.vocabulary import Vocabulary

from .psg_files import PREDICATES, STUFF, THINGS, content, record, write_json


def test_dataset_dicts(tmp_path):
    entry = record("17")
    entry["annotations"][0] = {"bbox": [1, 2, 10, 20], "bbox_mode": 1, "category_id": 0}
    path = write_json(tmp_path, content([entry], []))
    (found,) = load_psg_json(path, tmp_path, "trainval")
    assert found["file_name"] == str(tmp_path / "train2017/17.png")
    assert found["pan_seg_file_name"] == str(tmp_path / "panoptic_train2017/17.png")
    assert (found["image_id"], found["height"], found["width"]) == ("17", 48, 64)
    assert [s["iscrowd"] for s in found["segments_info"]] == [False, True, False, False]
    assert [s["isthing"] for s in found["segments_info"]] == [True, True, True, False]
    assert found["segments_info"][0]["bbox"] == [1, 2, 11, 22]  # x, y, w, h became x0, y0, x1, y1
    assert found["segments_info"][1]["bbox"] == entry["annotations"][1]["bbox"]
    assert found["relations"] == entry["relations"]


def test_ids_are_compared_as_strings(tmp_path):
    entries = [record("1"), record("2"), record("3")]
    entries[1]["image_id"] = 2
    path = write_json(tmp_path, content(entries, [3, "2"]))
    assert [d["image_id"] for d in load_psg_json(path, tmp_path, "test")] == ["2", "3"]
    assert [d["image_id"] for d in load_psg_json(path, tmp_path, "trainval")] == ["1"]


@pytest.mark.parametrize(("num_images", "num_val"), [(3, 0), (100, 2), (46_563, 1000)])
def test_val_split_is_a_hash_of_the_ids(num_images, num_val):
    ids = [str(i) for i in range(num_images)]
    train, val, trainval = (select_split(ids, frozenset(), s) for s in ("train", "val", "trainval"))
    assert len(val) == num_val
    assert sorted(train + val) == trainval == list(range(num_images))
    digest = {i: hashlib.sha1(ids[i].encode()).hexdigest() for i in trainval}
    assert not val or max(digest[i] for i in val) < min(digest[i] for i in train)
    # The order of the file does not matter.
    backwards = select_split(ids[::-1], frozenset(), "val")
    assert {ids[::-1][i] for i in backwards} == {ids[i] for i in val}


PROBLEMS = {
    "not_a_record": (lambda e: e.clear(), "image_id"),
    "no_height": (lambda e: e.pop("height"), "height"),
    "text_width": (lambda e: e.update(width="64"), "width"),
    "zero_height": (lambda e: e.update(height=0), "height"),
    "absolute_path": (lambda e: e.update(file_name="/etc/passwd"), "file_name"),
    "parent_path": (lambda e: e.update(pan_seg_file_name="a/../../b.png"), "pan_seg_file_name"),
    "windows_path": (lambda e: e.update(file_name="C:\\a.jpg"), "file_name"),
    "windows_parent": (lambda e: e.update(file_name="a\\..\\..\\b.jpg"), "file_name"),
    "segment_no_object": (lambda e: e["segments_info"].__setitem__(1, 5), "segments_info[1]"),
    "segment_no_id": (lambda e: e["segments_info"][2].pop("id"), "segments_info[2].id"),
    "segment_id_zero": (lambda e: e["segments_info"][2].update(id=0), "segments_info[2].id"),
    "segment_id_large": (lambda e: e["segments_info"][2].update(id=256**3), "segments_info[2].id"),
    "segment_id_twice": (lambda e: e["segments_info"][2].update(id=7), "segments_info[2].id"),
    "category_large": (lambda e: e["segments_info"][0].update(category_id=3), "segments_info[0].category_id"),
    "category_negative": (lambda e: e["segments_info"][0].update(category_id=-1), "segments_info[0].category_id"),
    "isthing": (lambda e: e["segments_info"][3].update(isthing=1), "segments_info[3].isthing"),
    "iscrowd": (lambda e: e["segments_info"][3].update(iscrowd=2), "segments_info[3].iscrowd"),
    "no_area": (lambda e: e["segments_info"][3].update(area=-1), "segments_info[3].area"),
    "annotation_missing": (lambda e: e["annotations"].pop(), "annotations"),
    "annotation_category": (lambda e: e["annotations"][0].update(category_id=1), "annotations[0].category_id"),
    "box_short": (lambda e: e["annotations"][0].update(bbox=[1, 2, 3]), "annotations[0].bbox"),
    "box_nan": (lambda e: e["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "annotations[0].bbox"),
    "box_mode": (lambda e: e["annotations"][0].update(bbox_mode=4), "annotations[0].bbox_mode"),
    "relation_short": (lambda e: e["relations"].append([0, 1]), "relations[4]"),
    "relation_float": (lambda e: e["relations"].append([0, 1, 1.0]), "relations[4]"),
    "relation_no_list": (lambda e: e["relations"].append("0 1 1"), "relations[4]"),
    "subject_large": (lambda e: e["relations"].append([4, 0, 0]), "relations[4]"),
    "object_negative": (lambda e: e["relations"].append([0, -1, 0]), "relations[4]"),
    "predicate_large": (lambda e: e["relations"].append([0, 1, 4]), "relations[4]"),
    "predicate_negative": (lambda e: e["relations"].append([0, 1, -1]), "relations[4]"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_error_is_named_or_skipped(name, tmp_path, caplog):
    damage, field = PROBLEMS[name]
    bad = record("66")
    damage(bad)
    path = write_json(tmp_path, content([record("5"), bad], []))
    image_id = bad.get("image_id", "#1")
    with pytest.raises(ValueError) as error:
        load_psg_json(path, tmp_path, "trainval")
    message = str(error.value)
    assert str(path) in message and repr(image_id) in message and f", {field}: " in message
    with caplog.at_level(logging.WARNING):
        kept = load_psg_json(path, tmp_path, "trainval", policy="skip")
    assert [d["image_id"] for d in kept] == ["5"]
    assert "1 invalid images skipped" in caplog.text


def test_duplicate_image(tmp_path, caplog):
    path = write_json(tmp_path, content([record("5"), record("5")], []))
    with pytest.raises(ValueError, match="'5', image_id: .*more than once, as data.0. and data.1."):
        load_psg_json(path, tmp_path, "trainval")
    assert len(load_psg_json(path, tmp_path, "trainval", policy="skip")) == 1


def test_problems_of_another_split_do_not_matter(tmp_path):
    bad = record("6")
    bad["relations"].append([0, 1, 99])
    path = write_json(tmp_path, content([record("5"), bad], ["6", "7"]))
    assert len(load_psg_json(path, tmp_path, "trainval")) == 1
    with pytest.raises(ValueError, match="predicate 99"):
        load_psg_json(path, tmp_path, "test")


def test_test_id_without_image(tmp_path):
    path = write_json(tmp_path, content([record("5"), record("6")], ["6", "7"]))
    with pytest.raises(ValueError, match="'7', test_image_ids"):
        load_psg_json(path, tmp_path, "test")
    assert [d["image_id"] for d in load_psg_json(path, tmp_path, "test", policy="skip")] == ["6"]


# Listed, and the image's own.
TEST_ID_FORMS = {"00123": "123", "123": "0123", "123.0": "123", " 123": "123", "+123": "123", "a1": "A1 "}


@pytest.mark.parametrize("listed", [*TEST_ID_FORMS, 123])
def test_test_ids_in_another_form_are_refused(tmp_path, listed):
    """Their images would be trained on without a word, so no split, index, check or repair takes the file."""
    own = TEST_ID_FORMS.get(listed, "0123")
    path = write_json(tmp_path, content([record("5"), record(own)], [listed]))
    for act in (
        lambda: load_psg_json(path, tmp_path, "train", policy="skip"),
        lambda: load_psg_json(path, tmp_path, "test"),
        lambda: write_index(path),
        lambda: repair_dataset(path, tmp_path, workers=0),
        lambda: dataset_statistics(path),
    ):
        with pytest.raises(ValueError, match="differ in form only") as error:
            act()
        assert repr(str(listed)) in str(error.value) and repr(own) in str(error.value)


@pytest.mark.parametrize("listed", [6.0, {"image_id": "6"}, ["6"], None, True])
def test_test_ids_are_text_or_whole_numbers(tmp_path, listed):
    path = write_json(tmp_path, content([record("5"), record("6")], ["5", listed]))
    with pytest.raises(ValueError) as error:
        load_psg_json(path, tmp_path, "trainval")
    assert f"{path}, test_image_ids[1]: expected an image_id" in str(error.value)
    assert str(error.value).endswith(repr(listed))


@pytest.mark.parametrize("indexed", [False, True])
def test_test_ids_without_image_are_reported_in_training(tmp_path, caplog, indexed):
    path = write_json(tmp_path, content([record("5"), record("6")], ["6", *range(10, 17)]))
    if indexed:
        write_index(path)
    assert len(load_psg_json(path, tmp_path, "trainval")) == 1
    text = "psg.json: 7 of 8 test_image_ids name no image: '10', '11', '12', '13', '14', ..."
    assert [x for x in caplog.messages if x.endswith(text)]


def test_files_of_the_competition_load_without_complaint(tmp_path, caplog):
    """Files of PSG's form whose test images are all there; "2" and "02" are two images if both are listed."""
    train_val = content([record("1"), record("2"), record("3")], ["2", 3])
    assert len(load_psg_json(write_json(tmp_path, train_val), tmp_path, "train")) == 1
    val_test = content([record("2"), record("02"), record("7")], ["2", "02", "7"])
    assert len(load_psg_json(write_json(tmp_path, val_test), tmp_path, "test")) == 3
    assert not caplog.records


def test_repeated_keys_are_found_wherever_they_are_read(tmp_path):
    text = json.dumps(content([record("5")], []))
    path = tmp_path / "psg.json"
    for old, new, field in (
        ('"area":', '"area": 1, "area":', "segments_info[0].area"),
        ('"bbox":', '"bbox": [], "bbox":', "annotations[0].bbox"),
        ('"image_id":', '"image_id": 7, "image_id":', "image_id"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError) as error:
            load_psg_json(path, tmp_path, "trainval")
        assert str(error.value) == f"{path}, image_id '5', {field}: the key occurs more than once"


def test_surrogates_in_an_id_are_a_error_of_its_image(tmp_path):
    entries = [record(str(i)) for i in range(100)]
    entries[50]["image_id"] = "\ud800"
    path = write_json(tmp_path, content(entries, []))
    for split in ("trainval", "train"):
        kept = load_psg_json(path, tmp_path, split, policy="skip")
        assert "\ud800" not in [d["image_id"] for d in kept] and len(kept) >= 97
    with pytest.raises(ValueError, match="image_id: expected text without lone surrogates"):
        load_psg_json(path, tmp_path, "trainval")


def test_self_relations_are_dropped_and_counted(tmp_path, caplog):
    entry = record("5")
    entry["relations"][1:1] = [[2, 2, 0], [3, 3, 1], [0, 3, 0]]
    path = write_json(tmp_path, content([entry], []))
    with caplog.at_level(logging.WARNING):
        (found,) = load_psg_json(path, tmp_path, "trainval")
    assert found["relations"] == [[0, 3, 0], *record("5")["relations"]]  # training counts the repeated one once
    assert "2 relations of a segment to itself, dropped" in caplog.text and "1 repeated relations" in caplog.text


def test_all_problems_in_one_pass(tmp_path):
    first, second = record("5"), record("5")
    first["relations"].append([0, 9, 9])
    second["height"] = -1
    file = read_psg_json(write_json(tmp_path, content([first, second], ["8"])))
    kinds = [[f.kind for f in file.validate_record(position)] for position in (0, 1)]
    assert kinds == [["relation_range", "predicate_range"], ["size"]]
    assert [f.kind for f in validate_file(file)] == ["duplicate_image_id", "unknown_test_image", "empty_split"]


def test_images_without_segments_and_relations(tmp_path):
    entry = record("5")
    entry.update(segments_info=[], annotations=[], relations=[])
    (found,) = load_psg_json(write_json(tmp_path, content([entry], [])), tmp_path, "trainval")
    assert found["segments_info"] == [] and found["relations"] == []


def test_file_is_no_psg(tmp_path):
    with pytest.raises(FileNotFoundError, match="no PSG file"):
        read_psg_json(tmp_path / "absent.json")
    whole = json.dumps(content([record("5")], []))
    path = tmp_path / "cut.json"
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.json: not a complete JSON"):
        read_psg_json(path)
    for key in content([], []):
        value = content([record("5")], [])
        del value[key]
        with pytest.raises(ValueError, match=f"not a PSG file, the key '{key}'"):
            read_psg_json(write_json(tmp_path, value))
        value[key] = {"no": "list"}
        with pytest.raises(ValueError, match=f"{key}: expected a list"):
            read_psg_json(write_json(tmp_path, value))
    with pytest.raises(ValueError, match="not a PSG file"):
        read_psg_json(write_json(tmp_path, [1, 2]))


def test_arguments(tmp_path):
    path = write_json(tmp_path, content([record("5")], []))
    with pytest.raises(ValueError, match="split: expected one of"):
        load_psg_json(path, tmp_path, "training")
    with pytest.raises(ValueError, match="policy: expected 'error'"):
        load_psg_json(path, tmp_path, "train", policy="ignore")
    with pytest.raises(ValueError, match="split 'test' has no image"):
        load_psg_json(path, tmp_path, "test")


def test_other_names_than_registered(tmp_path):
    path = write_json(tmp_path, content([record("5")], []))
    own = Vocabulary(tuple(THINGS), tuple(STUFF), tuple(PREDICATES))
    assert len(load_psg_json(path, tmp_path, "trainval", vocabulary=own)) == 1
    other = Vocabulary(("person", "mug"), tuple(STUFF), tuple(PREDICATES))
    with pytest.raises(ValueError, match=r"thing_classes\[1\]: registered as 'mug', the file says 'cup'"):
        load_psg_json(path, tmp_path, "trainval", vocabulary=other)
    shorter = Vocabulary(tuple(THINGS), tuple(STUFF), tuple(PREDICATES[:-1]))
    with pytest.raises(ValueError, match="3 names are registered, the file has 4"):
        load_psg_json(path, tmp_path, "trainval", vocabulary=shorter)
