"""`usg-psg data import`: COCO's panoptic annotation, and data sets of the Hub with their images."""

import json

import huggingface_hub
import numpy as np
import pytest

from usg_psg.data import PSG_VOCABULARY, decode_panoptic_png, read_psg_json
from usg_psg_cli import main

from ..data.sources.hosts import (
    COMMIT,
    REPOSITORY,
    coco_json,
    hub_files,
    hub_rows,
    names_json,
    parquet_file,
    psg_content,
    serving,
)
from ..programs import exit_status


@pytest.fixture
def coco(tmp_path):
    """COCO's files of a train and a val part, and the records that they stand for."""
    content, _ = psg_content()
    records = {}
    for part in ("train2017", "val2017"):
        records[part] = [r for r in content["data"] if r["file_name"].startswith(part)]
        (tmp_path / f"panoptic_{part}.json").write_text(json.dumps(coco_json(records[part])))
    return records


def import_coco(folder, *options):
    output = folder / "objects.json"
    files = "--json", str(folder / "panoptic_train2017.json"), "--output", str(output)
    return exit_status(main, ["data", "import", "coco-panoptic", *files, *options]), output


def test_coco_panoptic(coco, tmp_path, capsys):
    status, output = import_coco(tmp_path, "--test-json", str(tmp_path / "panoptic_val2017.json"))
    assert status == 0 and "4 images to train on, 2 to test on" in capsys.readouterr().out
    found, expected = read_psg_json(output), coco["train2017"] + coco["val2017"]
    assert found.vocabulary == PSG_VOCABULARY
    assert found.test_image_ids == {record["image_id"] for record in coco["val2017"]}
    for record, wanted in zip(found.records, expected, strict=True):  # the toy JSON has segments from the last on
        turned = {key: wanted[key][::-1] for key in ("segments_info", "annotations")}
        assert record == {**wanted, **turned, "relations": []}


def test_coco_panoptic_of_other_classes(coco, tmp_path):
    path = tmp_path / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "pedestrian"
    content["categories"].reverse()
    path.write_text(json.dumps(content))
    _, output = import_coco(tmp_path, "--images", "photos", "--panoptic", "labels")
    found = read_psg_json(output)
    assert found.vocabulary.thing_classes[-1] == "pedestrian" and len(found.vocabulary.stuff_classes) == 53
    assert found.records[0]["segments_info"][-1]["category_id"] == 79
    assert found.records[0]["file_name"].startswith("photos/")
    assert found.records[0]["pan_seg_file_name"].startswith("labels/")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "not COCO's panoptic annotation (KeyError: 'categories')"),
        (lambda c: c["images"].pop(0), "image_id 9: annotated, but not among the images"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=999), "category_id 999 is not among"),
    ],
)
def test_bad_coco_panoptic(coco, tmp_path, capsys, change, message):
    path = tmp_path / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    status, output = import_coco(tmp_path)
    line = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and message in line and str(path) in line and not output.exists()


def test_wrong_arguments(coco, tmp_path, capsys):
    assert import_coco(tmp_path)[0] == 0
    assert import_coco(tmp_path)[0] == 2 and "objects.json exists; it is not overwritten" in capsys.readouterr().err
    assert import_coco(tmp_path, "--test-json", "absent.json")[0] == 2
    assert exit_status(main, ["data", "import"]) == 2
    assert exit_status(main, ["data", "import", "hub", "a/b", "--output", "c", "--categories", "absent.json"]) == 2


@pytest.fixture
def host(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    content, pictures = psg_content()
    with serving({}) as host:
        host.content, host.pictures = content, pictures
        yield host


def import_hub(host, folder, *options):
    return exit_status(
        main, ["data", "import", "hub", REPOSITORY, "--output", str(folder), "--hub-url", host.url, *options]
    )


def test_hub_of_boxes(host, tmp_path, capsys):
    host.put_hub(hub_files(host.content, host.pictures))
    assert import_hub(host, tmp_path / "a") == 2
    assert "image_id 9, objects[0]: it has a box but no segmentation; --boxes-as-masks" in capsys.readouterr().err
    assert import_hub(host, tmp_path / "a", "--boxes-as-masks") == 0
    found = read_psg_json(tmp_path / "a" / "psg.json")
    assert found.vocabulary == PSG_VOCABULARY and found.test_image_ids == {"test-89"}
    assert found.image_ids == ["train-9", "train-25", "train-41", "train-57", "val-73", "test-89"]
    for record, original in zip(found.records, host.content["data"], strict=True):
        assert record["relations"] == original["relations"]
        assert (tmp_path / "a" / record["file_name"]).read_bytes() == host.pictures[original["file_name"]]
        ids = decode_panoptic_png(str(tmp_path / "a" / record["pan_seg_file_name"]))
        for segment, annotation in zip(record["segments_info"], original["annotations"], strict=True):
            x0, y0, x1, y1 = annotation["bbox"]
            assert (ids[y0:y1, x0:x1] == segment["id"]).all() and segment["area"] == (ids == segment["id"]).sum()
    arguments = ["--json", str(tmp_path / "a" / "psg.json"), "--image-root", str(tmp_path / "a"), "--workers", "1"]
    assert main(["data", "check", *arguments]) == 0
    host.requests.clear()
    assert import_hub(host, tmp_path / "a", "--boxes-as-masks") == 0
    assert not [request for request in host.requests if ".parquet" in request]  # what was there was not fetched again


def test_hub_of_masks(host, tmp_path):
    """Polygons; names in the description; the smaller object on top, and a covered one goes with its relations."""
    row = hub_rows(host.content, host.pictures, host.content["data"][:1])[0]
    polygons = [[5, 5, 45, 5, 45, 35, 5, 35], [10, 10, 20, 10, 20, 20, 10, 20], [10, 10, 20, 10, 20, 20, 10, 20]]
    row["objects"] = [{**obj, "segmentation": [p]} for obj, p in zip(row["objects"], polygons, strict=False)]
    names = {"thing_classes": ["cup", "plate"], "stuff_classes": [], "predicate_classes": ["on"]}
    row["objects"] = [{**obj, "category_id": 1 + i % 2} for i, obj in enumerate(row["objects"])]
    on = {"object_id": row["objects"][0]["id"], "predicate_id": 1}
    row["relations"] = [{"id": i, "subject_id": row["objects"][i]["id"], **on} for i in (1, 2)]
    host.put_hub({"data/validation-00000-of-00001.parquet": parquet_file([row], names_json(names))})
    assert import_hub(host, tmp_path / "a") == 0
    found = read_psg_json(tmp_path / "a" / "psg.json")
    assert found.vocabulary.object_classes == ("cup", "plate") and found.test_image_ids == {"val-9"}
    record = found.records[0]
    assert record["relations"] == [[1, 0, 0]] and [s["id"] for s in record["segments_info"]] == [1, 3]
    ids = decode_panoptic_png(str(tmp_path / "a" / record["pan_seg_file_name"]))
    assert ids[15, 15] == 3 and ids[30, 40] == 1 and np.unique(ids).tolist() == [0, 1, 3]


def test_hub_without_data(host, tmp_path, capsys):
    host.put_hub({"README.md": b""})
    assert (
        import_hub(host, tmp_path / "a") == 2 and "it has no Parquet file of a split train" in capsys.readouterr().err
    )
    host.put_hub({"train.parquet": parquet_file([])})
    names = tmp_path / "names.json"
    names.write_text('{"categories": []}')
    assert import_hub(host, tmp_path / "a", "--categories", str(names), "--revision", COMMIT) == 2
    assert f"{names}: expected JSON with categories and rel_categories" in capsys.readouterr().err
