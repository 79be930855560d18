"""The page of a data set and of the errors on it: what is shown, in which order, and what is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import unregister_psg
from usg_psg.evaluation import open_writer
from usg_psg.evaluation.sgdet_evaluator import SGDetMetrics
from usg_psg_cli import program

from ..evaluation.dataset import write_dataset
from ..evaluation.samples import NUM_PREDICATES
from ..programs import exit_status


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """psg.json of 8 images with photographs and predictions of all but one."""
    root = tmp_path_factory.mktemp("data")
    json_file, scenes = write_dataset(root, 8)
    for record in json.loads(json_file.read_text())["data"]:
        path = root / "coco" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((record["height"], record["width"], 3), np.uint8)).save(path)
    writer = open_writer("json", root / "predictions")
    absent = next(reversed(scenes))
    for image_id, (_, prediction) in scenes.items():
        if image_id != absent:
            writer.add(image_id, prediction)
    writer.close()
    with_relations = {image_id: gt.label_map.shape for image_id, (gt, _) in scenes.items() if len(gt.triplets)}
    return json_file, writer.finish(1, with_relations), scenes, absent


def test_a_recipe_registers_the_data_set(data, tmp_path, monkeypatch):
    json_file = data[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data_of_mine.py").write_text(
        "from usg_psg.data import register_psg\n"
        f"register_psg('of_mine', {str(json_file)!r}, {str(json_file.parents[1] / 'coco')!r}, 'test')\n"
    )
    (tmp_path / "mine.yaml").write_text("IMPORTS: [data_of_mine]\n")
    try:
        assert run("--config-file", "mine.yaml", "--dataset", "of_mine", "--output", tmp_path, "--limit", 1) == 0
    finally:
        unregister_psg("of_mine")
    assert (tmp_path / "index.html").is_file()


def run(*arguments):
    return program("visualize")([str(a) for a in arguments])


def read_page(path):
    """Images in the order of the page: index entry and content of each."""
    text = path.read_text(encoding="utf-8")
    found = dict(re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text))
    return [(entry, json.loads(found[entry["id"]])) for entry in json.loads(found["index"])["items"]]


def test_annotation(data, tmp_path, capsys):
    json_file, _, scenes, _ = data
    assert run("--json", json_file, "--split", "test", "--limit", 3, "--output", tmp_path) == 0
    assert "3 of 8 images" in capsys.readouterr().out
    shown = read_page(tmp_path / "index.html")
    assert [entry["name"] for entry, _ in shown] == list(scenes)[:3]
    for entry, content in shown:
        gt = scenes[entry["name"]][0]
        (layer,) = content["layers"]
        assert layer["score"] is None and len(layer["objects"]) == len(gt.labels)
        rows = zip(layer["subject"], layer["object"], layer["predicate"], strict=True)
        names = [[s, o, layer["predicates"][p]] for s, o, p in rows]
        assert names == [[s, o, f"predicate{p}"] for s, o, p in gt.unique_triplets.tolist()]
        assert [o["area"] for o in layer["objects"]] == np.bincount(gt.label_map.ravel())[1:].tolist()


def test_chosen_images_and_a_named_file(data, tmp_path):
    json_file, _, scenes, _ = data
    wanted = [list(scenes)[n] for n in (4, 3)]
    page = tmp_path / "new" / "page.html"
    assert run("--json", json_file, "--split", "test", "--image-ids", *wanted, "--output", page) == 0
    assert [entry["name"] for entry, _ in read_page(page)] == wanted


@pytest.mark.parametrize("protocol", ["single", "openpsg"])
def test_errors_worst_first(data, tmp_path, capsys, protocol):
    json_file, predictions, scenes, absent = data
    arguments = ["--json", json_file, "--predictions", predictions, "--protocol", protocol, "--top-k", 10]
    assert run(*arguments, "--output", tmp_path) == 0
    shown = read_page(tmp_path / "index.html")
    with_relations = {image_id: gt.label_map.shape for image_id, (gt, _) in scenes.items() if len(gt.triplets)}
    assert sorted(entry["name"] for entry, _ in shown) == sorted(with_relations)
    keys = []
    for entry, content in shown:
        predicted, annotated = content["layers"]
        assert set(predicted["mark"]) <= {"hit", "wrong"} and set(annotated["mark"]) <= {"hit", "missed"}
        found, total = annotated["mark"].count("hit"), len(annotated["mark"])
        assert entry["note"] == f"recall {found} of {total}, {predicted['mark'].count('wrong')} wrong"
        keys.append((found / total, -annotated["mark"].count("missed")))
        if entry["name"] == absent:
            assert found == 0 and predicted["objects"] == []
    assert keys == sorted(keys) and keys[-1][0] > 0

    metrics = SGDetMetrics(NUM_PREDICATES, ks=(10,))
    for image_id in with_relations:
        gt, prediction = scenes[image_id]
        if image_id == absent:
            metrics.update_missing(gt.triplets, gt.labels, gt.is_crowd)
        else:
            metrics.update(gt, prediction)
    expected = metrics.compute().metrics[f"{protocol}/R@10"]
    assert f"under {protocol}: {expected:.2f};" in capsys.readouterr().out

    assert run(*arguments, "--limit", 2, "--output", tmp_path / "two.html") == 0
    assert [entry["name"] for entry, _ in read_page(tmp_path / "two.html")] == [e["name"] for e, _ in shown[:2]]


def refused(capsys, *arguments):
    assert exit_status(run, *arguments) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_bad_input_is_named(data, tmp_path, capsys):
    json_file, predictions, _, _ = data
    output = ["--output", tmp_path]
    assert "--image-ids 5" in refused(capsys, "--json", json_file, "--split", "test", "--image-ids", 5, *output)
    assert "none.json" in refused(capsys, "--json", tmp_path / "none.json", *output)
    assert "'psg_shape'" in refused(capsys, "--dataset", "psg_shape", *output)
    assert "--limit" in refused(capsys, "--json", json_file, "--limit", 0, *output)
    assert "--image-root" in refused(capsys, "--dataset", "psg_val", "--image-root", tmp_path, *output)
    message = refused(capsys, "--json", json_file, "--predictions", tmp_path / "none.json", *output)
    assert "none.json" in message
    content = json.loads(predictions.read_text())
    image_id = content["images"][0]["image_id"]
    content["images"][0]["relations"][0][2] = 999
    broken = predictions.with_name("broken.json")
    broken.write_text(json.dumps(content))
    arguments = ["--json", json_file, "--predictions", broken, "--image-ids", image_id, *output]
    message = refused(capsys, *arguments)
    assert image_id in message and "predicate" in message and "999" in message
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(predictions.parent / "small.png")
    content["images"][0].update(height=5, width=5, pan_seg_file_name="small.png")
    broken.write_text(json.dumps(content))
    message = refused(capsys, *arguments)
    assert image_id in message and "(5, 5)" in message
    content = json.loads(predictions.read_text())
    content["images"].append(content["images"][0])
    broken.write_text(json.dumps(content))
    message = refused(capsys, "--json", json_file, "--predictions", broken, *output)
    assert f"broken.json, image '{image_id}': there is a second prediction" in message
    content["images"] = [1]
    broken.write_text(json.dumps(content))
    assert "images[0]: expected an object, got 1" in refused(
        capsys, "--json", json_file, "--predictions", broken, *output
    )
    assert list(tmp_path.iterdir()) == [], "no page is left"
