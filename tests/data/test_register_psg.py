"""Registration: built-in names, own vocabularies, the root folder."""

from __future__ import annotations

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from usg_psg.data import PSG_VOCABULARY, get_psg_metadata, register_psg, unregister_psg
from usg_psg.vocabulary import Vocabulary

from .psg_files import PREDICATES, STUFF, THINGS, content, record, write_json


@pytest.fixture
def own(tmp_path):
    """A registered data set with another vocabulary; its name and file."""
    path = write_json(tmp_path, content([record("5"), record("6")], ["6"]))
    register_psg("own_data", path, tmp_path, "test")
    yield "own_data", path
    if "own_data" in DatasetCatalog.list():
        unregister_psg("own_data")


def test_builtin_names_know_psg_without_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val", "trainval", "test"):
        metadata = get_psg_metadata(f"psg_{split}")
        assert len(metadata.thing_classes) == 80 and len(metadata.stuff_classes) == 53
        assert len(metadata.predicate_classes) == 56
        assert metadata.object_classes == list(PSG_VOCABULARY.object_classes)
        assert metadata.thing_dataset_id_to_contiguous_id == {i: i for i in range(80)}
        assert metadata.stuff_dataset_id_to_contiguous_id == {i: i for i in range(80, 133)}
        assert metadata.evaluator_type == MetadataCatalog.get(f"psg_{split}").evaluator_type == "psg_sgdet"
        assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
        assert metadata.json_file == str(tmp_path / "psg" / "psg.json")


def test_names_that_pin_the_index_bases():
    names, predicates = PSG_VOCABULARY.object_classes, PSG_VOCABULARY.predicate_classes
    assert (names[0], names[79], names[80], names[132]) == ("person", "toothbrush", "banner", "rug-merged")
    wanted = {0: "over", 1: "in front of", 2: "beside", 14: "standing on", 21: "holding", 55: "leaning on"}
    assert {i: predicates[i] for i in wanted} == wanted
    assert len(set(names)) == 133 and len(set(predicates)) == 56


def test_missing_file_names_path_and_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="psg_test.*psg.json.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("psg_test")
    with pytest.raises(FileNotFoundError, match="psg_shapes_val.*psg_shapes.*psg.json"):
        get_psg_metadata("psg_shapes_val")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    with pytest.raises(FileNotFoundError, match="is not set"):
        get_psg_metadata("psg_shapes_val")


def test_root_may_change_until_the_data_is_loaded(monkeypatch, tmp_path):
    for name, things in (("a", ["person", "cup"]), ("b", ["dog", "car"])):
        folder = tmp_path / name / "psg_shapes" / "psg"
        folder.mkdir(parents=True)
        write_json(folder, {**content([record(name)], []), "thing_classes": things})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "a"))
    assert get_psg_metadata("psg_shapes_train").thing_classes == ["person", "cup"]
    (found,) = DatasetCatalog.get("psg_shapes_train")
    assert found["file_name"] == str(tmp_path / "a/psg_shapes/coco/train2017/a.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "b"))
    assert get_psg_metadata("psg_shapes_train").thing_classes == ["dog", "car"]
    assert DatasetCatalog.get("psg_shapes_train")[0]["image_id"] == "b"
    assert MetadataCatalog.get("psg_shapes_train").json_file.startswith(str(tmp_path / "b"))


def test_own_vocabulary(own, tmp_path):
    name, _ = own
    metadata = get_psg_metadata(name)
    assert metadata.thing_classes == THINGS and metadata.stuff_classes == STUFF
    assert metadata.object_classes == THINGS + STUFF and metadata.predicate_classes == PREDICATES
    assert metadata.stuff_dataset_id_to_contiguous_id == {2: 2}
    assert metadata.image_root == str(tmp_path)
    assert get_psg_metadata(name) is MetadataCatalog.get(name)
    assert [d["image_id"] for d in DatasetCatalog.get(name)] == ["6"]


def test_no_file_is_opened_on_registration(tmp_path):
    register_psg("nowhere", tmp_path / "absent.json", tmp_path, "train")
    try:
        with pytest.raises(FileNotFoundError, match="nowhere.*absent.json"):
            get_psg_metadata("nowhere")
    finally:
        unregister_psg("nowhere")
    assert "nowhere" not in DatasetCatalog.list()


def test_registered_names_must_be_the_files(tmp_path):
    path = write_json(tmp_path, content([record("5")], []))
    other = Vocabulary(tuple(THINGS), ("ceiling",), tuple(PREDICATES))
    register_psg("other_names", path, tmp_path, "trainval", vocabulary=other)
    try:
        assert get_psg_metadata("other_names").stuff_classes == ["ceiling"]
        with pytest.raises(ValueError, match="registered as 'ceiling', the file says 'wall'"):
            DatasetCatalog.get("other_names")
    finally:
        unregister_psg("other_names")


def test_policy_reaches_the_loader(tmp_path):
    bad = record("6")
    bad["height"] = 0
    path = write_json(tmp_path, content([record("5"), bad], []))
    register_psg("skipping", path, tmp_path, "trainval", policy="skip")
    try:
        assert [d["image_id"] for d in DatasetCatalog.get("skipping")] == ["5"]
    finally:
        unregister_psg("skipping")


def test_callers_mistakes(own, tmp_path):
    name, path = own
    with pytest.raises(ValueError, match="already registered"):
        register_psg(name, path, tmp_path, "train")
    with pytest.raises(ValueError, match="split: expected one of"):
        register_psg("another", path, tmp_path, "training")
    with pytest.raises(ValueError, match="policy: expected 'error', 'skip', 'strict', got 'ignore'"):
        register_psg("another", path, tmp_path, "train", policy="ignore")
    assert "another" not in DatasetCatalog.list()
    with pytest.raises(ValueError, match="'unknown' is not a registered PSG data set.*own_data, psg_shapes_train"):
        get_psg_metadata("unknown")


def test_real_sample(monkeypatch, psg_mini):
    from usg_psg.data import PSGDataset

    monkeypatch.setenv("DETECTRON2_DATASETS", str(psg_mini))
    trainval, test = DatasetCatalog.get("psg_trainval"), DatasetCatalog.get("psg_test")
    assert [d["image_id"] for d in trainval] == ["9", "39769", "439180"]
    assert DatasetCatalog.get("psg_train") == trainval
    with pytest.raises(ValueError, match="the split 'val' has no image"):
        DatasetCatalog.get("psg_val")
    assert [d["image_id"] for d in test] == ["142238", "139"]
    everything = trainval + test
    assert sum(len(d["segments_info"]) for d in everything) == 96
    assert sum(s["iscrowd"] for d in everything for s in d["segments_info"]) == 3
    assert sum(len(d["relations"]) for d in everything) == 53
    content_of_file = json.loads((psg_mini / "psg" / "psg.json").read_text())
    by_id = {x["image_id"]: x for x in content_of_file["data"]}
    for sample, dataset_dict in zip(PSGDataset(everything), everything, strict=True):
        source = by_id[dataset_dict["image_id"]]
        areas = sample["gt_masks"].flatten(1).sum(1).tolist()
        assert areas == [s["area"] for s in source["segments_info"]]
        assert sample["gt_relations"] == [tuple(r) for r in source["relations"]]
