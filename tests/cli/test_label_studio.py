"""`usg-psg annotate label-studio` and `usg-psg data import label-studio`: out, corrected, and back."""

import copy
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import decode_panoptic_png, read_psg_json
from usg_psg.data.label_studio import encode_brush
from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph
from usg_psg.vocabulary import Vocabulary
from usg_psg_cli import main

from ..data import psg_files
from ..programs import exit_status

VOCABULARY = psg_files.THINGS, psg_files.STUFF, psg_files.PREDICATES
SIZE = 48, 64


@pytest.fixture
def tasks(tmp_path):
    """A data set of three images, the last for testing, and the tasks made of it, as Label Studio would export them."""
    records = [psg_files.record(image_id) for image_id in ("5", "6", "7")]
    for record in records:
        psg_files.write_images(tmp_path, record)
    psg_files.write_json(tmp_path, psg_files.content(records, ["7"]))
    assert annotate(tmp_path, "--json", str(tmp_path / "psg.json")) == 0
    return exported(tmp_path)


def annotate(folder, *options):
    words = ["--image-root", str(folder), "--output", str(folder / "tasks"), *options]
    return exit_status(main, ["annotate", "label-studio", *words])


def exported(folder):
    """tasks.json as it would come back: numbered, predictions accepted."""
    tasks = json.loads((folder / "tasks" / "tasks.json").read_text())
    return [{"id": n, "annotations": t.get("annotations", t.get("predictions")), **t} for n, t in enumerate(tasks, 1)]


def import_back(folder, tasks, *options):
    (folder / "export.json").write_text(json.dumps(tasks))
    output = folder / "corrected.json"
    files = "--tasks", str(folder / "tasks"), "--image-root", str(folder), "--output", str(output)
    return exit_status(main, ["data", "import", "label-studio", str(folder / "export.json"), *files, *options]), output


def changes(output):
    entries = json.loads((output.parent / "corrected.json.changes.json").read_text())["changes"]
    return [(entry["task"], entry["what"], entry["about"]) for entry in entries]


def test_unchanged(tasks, tmp_path, capsys):
    """An image that was not exported stays, too; panoptic PNGs do."""
    status, output = import_back(tmp_path, tasks[:2])
    assert status == 0 and "3 images, 0 not annotated; no change" in capsys.readouterr().out
    before, after = read_psg_json(tmp_path / "psg.json"), read_psg_json(output)
    assert after.records == before.records and after.vocabulary == before.vocabulary
    assert after.test_image_ids == {"7"} and not (tmp_path / "panoptic_corrected").exists()


def test_labelling_interface(tasks, tmp_path):
    view = ET.parse(tmp_path / "tasks" / "labeling.xml").getroot()
    assert [tag.get("value") for tag in view.iter("Relation")] == psg_files.PREDICATES
    assert [tag.get("value") for tag in view.iter("Label")] == psg_files.THINGS + psg_files.STUFF
    (image,) = view.iter("Image")
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=train2017/5.png" and image.get("value") == "$image"


def test_corrections_are_listed(tasks, tmp_path):
    result = tasks[0]["annotations"][0]["result"]
    person, _crowd, cup, wall = result[:4]
    person["value"]["brushlabels"] = ["cup"]
    mask = psg_files.quadrants(*SIZE) == 3  # of the cup's quarter the first columns
    mask[:, 20:] = False
    cup["value"]["rle"] = encode_brush(mask)
    # A new person over the wall's upper part, and the wall under another name, known by its overlap.
    drawn = {**copy.deepcopy(wall), "id": "aBc"}
    drawn["value"]["brushlabels"] = ["person"]
    part = psg_files.quadrants(*SIZE) == 4
    part[30:] = False
    drawn["value"]["rle"] = encode_brush(part)
    wall["id"] = "renamed"
    relation = {"type": "relation", "from_id": "aBc", "to_id": "renamed", "direction": "bi", "labels": ["beside"]}
    ids = [str(i) for i in psg_files.IDS]
    edited = [r for r in result[4:] if ids[1] not in (r["from_id"], r["to_id"])]
    for entry in edited:
        entry.update({end: "renamed" for end in ("from_id", "to_id") if entry[end] == ids[3]})
    first = next(r for r in edited if r["from_id"] == ids[0] and r["to_id"] == "renamed")
    first["labels"] = ["beside"]
    tasks[0]["annotations"][0]["result"] = [person, cup, wall, drawn, *edited, relation]
    status, output = import_back(tmp_path, tasks)
    assert status == 0
    a, b, c, d = (f"{name} {i}" for name, i in zip(("person", "person", "cup", "wall"), ids, strict=True))
    assert changes(output) == [
        (1, "class changed", f"{a} -> cup"),
        (1, "mask changed", f"{c}, IoU {18 / 30:.3f}"),
        (1, "mask changed", f"{d}, IoU {1 - part.sum() / mask_area(4):.3f}"),
        (1, "segment added", "person 1"),
        (1, "segment removed", b),
        (1, "relation changed", f"{a} - on -> beside - {d}"),
        (1, "relation removed", f"{b} - beside - {a}"),
        (1, "relation added", f"person 1 - beside - {d}"),
        (1, "relation added", f"{d} - beside - person 1"),
    ]
    record = read_psg_json(output).records[0]
    assert record["relations"] == [[0, 2, 1], [1, 2, 2], [0, 1, 3], [3, 2, 1], [2, 3, 1]]
    assert record["pan_seg_file_name"] == "panoptic_corrected/train2017/5.png"
    ids_now = decode_panoptic_png(str(tmp_path / record["pan_seg_file_name"]))
    for segment in record["segments_info"]:
        assert (ids_now == segment["id"]).sum() == segment["area"]
    assert np.array_equal(ids_now == 1, part)
    arguments = ["--json", str(output), "--image-root", str(tmp_path), "--workers", "1"]
    assert main(["data", "check", *arguments]) == 0


def mask_area(number):
    return (psg_files.quadrants(*SIZE) == number).sum()


def graph(names=("person", "cup")):
    masks = [encode_mask(psg_files.quadrants(*SIZE) == i + 1) for i in range(len(names))]
    found = SceneGraph.from_rows(SIZE, [0, 1], masks, [(0, 1, 3), (0, 1, 0)], names_of(names), [0.9, 0.8], [0.5, 0.4])
    return found.to_json()


def names_of(things):
    return Vocabulary(tuple(things), ("wall",), tuple(psg_files.PREDICATES))


@pytest.fixture
def photographs(tmp_path):
    """Images without annotation, the prediction of one, and names."""
    for name in ("a", "b", "c"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "a.json").write_text(graph())
    names = dict(zip(("thing_classes", "stuff_classes", "predicate_classes"), VOCABULARY, strict=True))
    (tmp_path / "names.json").write_text(json.dumps(names))
    return tmp_path


def test_predictions_become_a_data_set(photographs, capsys):
    options = "--vocabulary", str(photographs / "names.json"), "--predictions", str(photographs / "demo")
    assert annotate(photographs, *options, "--test-share", "0.5") == 0
    assert "3 tasks, 1 of them with regions to start from" in capsys.readouterr().out
    tasks = exported(photographs)
    (prediction,) = tasks[0]["predictions"]
    assert [entry.get("score") for entry in prediction["result"]] == [0.9, 0.8, None]
    assert prediction["result"][2]["labels"] == ["holding"]  # the best predicate of the pair
    tasks[1]["annotations"], tasks[2]["annotations"] = [], [{"was_cancelled": True, "result": []}]
    status, output = import_back(photographs, tasks)
    assert status == 0 and "1 images, 2 not annotated; no change" in capsys.readouterr().out
    content = read_psg_json(output)
    assert content.image_ids == ["photos/a"] and content.records[0]["relations"] == [[0, 1, 3]]
    splits = {task["data"]["image_id"]: task["data"]["split"] for task in tasks}
    assert (content.test_image_ids == {"photos/a"}) == (splits["photos/a"] == "test")
    assert set(splits.values()) == {"train", "test"}
    ids = decode_panoptic_png(str(photographs / content.records[0]["pan_seg_file_name"]))
    assert np.array_equal(ids, np.array([0, 1, 2, 0, 0])[psg_files.quadrants(*SIZE)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("id"), "entry 0 of the export.id: expected int"),
        (lambda t: t.pop("data"), "task 1: has no data; export the project as JSON, not JSON-MIN"),
        (lambda t: t["data"].pop("image_id"), "task 1, data.image_id: expected str"),
        (lambda t: t["data"].update(image_id="99"), "task 1, data.image_id: '99' is not among the tasks"),
        (lambda t: t.pop("annotations"), "task 1, annotations: expected a list"),
        (lambda t: t["annotations"].append({"result": []}), "task 1, annotations: expected one, got 2; --latest"),
        (lambda t: entry(t, 0).update(type="rectanglelabels"), "result[0].type: expected brushlabels or relation"),
        (
            lambda t: entry(t, 0).update(original_width=9),
            "result[0].original_height, original_width: expected (48, 64)",
        ),
        (lambda t: entry(t, 0).update(image_rotation=90), "result[0].image_rotation: expected 0, got 90"),
        (lambda t: entry(t, 0)["value"].update(brushlabels=[]), "result[0].value.brushlabels: expected one class"),
        (lambda t: entry(t, 0)["value"].update(brushlabels=["dog"]), "brushlabels: 'dog' is not in the vocabulary"),
        (
            lambda t: entry(t, 0)["value"].update(rle="x"),
            "annotations[0], result[0].value.rle: expected a list of bytes",
        ),
        (lambda t: entry(t, 1).update(id=entry(t, 0)["id"]), "annotations[0], result: two regions have one id"),
        (lambda t: entry(t, 4).update(to_id="gone"), "result[4].to_id: there is no region 'gone'"),
        (lambda t: entry(t, 4).update(to_id=entry(t, 4)["from_id"]), "is related to itself"),
        (lambda t: entry(t, 4).update(labels=[]), "result[4].labels: expected a predicate, got none"),
        (lambda t: entry(t, 4).update(direction="up"), "result[4].direction: expected right, left, bi"),
    ],
)
def test_broken_and_foreign_tasks(tasks, tmp_path, capsys, change, message):
    change(tasks[0])
    status, output = import_back(tmp_path, tasks)
    line = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and message in line and "export.json" in line and not output.exists()


def entry(task, n):
    return task["annotations"][0]["result"][n]


def test_one_of_several_annotations(tasks, tmp_path):
    older, newer = tasks[0]["annotations"][0], {"updated_at": "2026-02-01", "result": []}
    older["updated_at"] = "2026-01-01"
    tasks[0]["annotations"] = [newer, older]
    status, output = import_back(tmp_path, tasks, "--latest")
    assert status == 0 and read_psg_json(output).records[0]["segments_info"] == []
    assert import_back(tmp_path, [tasks[1], tasks[1]])[0] == 2  # the output exists


def test_covered_region(tasks, tmp_path):
    hidden = {**copy.deepcopy(entry(tasks[0], 3)), "id": "below"}  # as large as the wall, and drawn after it
    tasks[0]["annotations"][0]["result"].append(hidden)
    _, output = import_back(tmp_path, tasks)
    whats = "segment added", "segment removed", "relation removed", "relation removed", "region left out"
    assert tuple(what for _, what, _ in changes(output)) == whats


def test_wrong_arguments(photographs, tmp_path, capsys):
    assert annotate(photographs) == 2 and "--json or --vocabulary: expected one" in capsys.readouterr().err
    names = "--vocabulary", str(photographs / "names.json")
    assert annotate(photographs, *names, "--predictions", "absent") == 2
    assert annotate(photographs, *names, "--image-ids", "photos/z") == 2
    assert "--image-ids photos/z: there is no such image" in capsys.readouterr().err
    (photographs / "demo" / "b.json").write_text(graph(("dog", "cup")))
    assert annotate(photographs, *names, "--predictions", str(photographs / "demo")) == 2
    assert "b.json: object 'dog': it is not in the vocabulary" in capsys.readouterr().err
    Image.new("RGB", SIZE).save(photographs / "photos" / "a.jpg")
    assert annotate(photographs, *names) == 2 and "image_id 'photos/a': two images" in capsys.readouterr().err
    assert not (photographs / "tasks").exists()
