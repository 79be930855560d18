"""COCO's panoptic results: ours scored by another implementation of panoptic quality, and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from usg_psg.data import decode_panoptic_png
from usg_psg.evaluation import open_writer, read_predictions

from ..files import core_results, export, make_dataset, rank_apart, read_results


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def annotations_of(json_file: Path, folder: Path) -> Path:
    """psg.json as COCO's panoptic annotations, `<folder>/gt.json` and `gt/*.png`."""
    content = json.loads(json_file.read_text())
    names = content["thing_classes"] + content["stuff_classes"]
    gt = {"images": [], "annotations": []}
    gt["categories"] = [
        {"id": n, "name": name, "isthing": int(n < len(content["thing_classes"]))} for n, name in enumerate(names)
    ]
    for record in (x for x in content["data"] if x["image_id"].isdigit()):
        image_id, name = int(record["image_id"]), Path(record["pan_seg_file_name"]).name
        segments = [{**s, "bbox": [0, 0, 1, 1]} for s in record["segments_info"]]
        gt["images"].append({"id": image_id, "file_name": name, "height": 12, "width": 16})
        gt["annotations"].append({"image_id": image_id, "file_name": name, "segments_info": segments})
        (folder / "gt").mkdir(parents=True, exist_ok=True)
        shutil.copy(json_file.parent.parent / "coco" / record["pan_seg_file_name"], folder / "gt" / name)
    (folder / "gt.json").write_text(json.dumps(gt))
    return folder / "gt.json"


@pytest.mark.parametrize("package", ["hotcoco.panoptic", "panopticapi.evaluation"])
def test_panoptic_quality_of_the_export(package, dataset, tmp_path, monkeypatch):
    pq_compute = pytest.importorskip(package).pq_compute
    json_file, samples, records = dataset
    samples = {key: sample for key, sample in samples.items() if key.isdigit()}  # hotcoco knows no other ids
    path = export("coco_panoptic", tmp_path / "out", samples, records)
    theirs = pq_compute(str(annotations_of(json_file, tmp_path / "gt")), str(path))
    ours = core_results(samples).panoptic
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for name in ("pq", "sq", "rq"):
            assert 100 * theirs[group][name] == pytest.approx(ours[name.upper() + suffix], abs=1e-9)
    assert ours["PQ"] > 0


def test_the_export_keeps_panoptic_quality_and_the_graph_on_the_map(dataset, tmp_path):
    _, samples, records = dataset
    samples = rank_apart(samples)
    path = export("coco_panoptic", tmp_path / "out", samples, records)
    expected, found = core_results(samples), read_results(path, records)
    assert found.panoptic == expected.panoptic
    single = [key for key in expected.metrics if key.startswith("single/")]
    np.testing.assert_equal([found.metrics[k] for k in single], [expected.metrics[k] for k in single])


def test_the_layout_is_cocos(dataset, tmp_path):
    """Every id of a PNG is listed and every listed one has pixels; 0 is void; names are relative to the folder."""
    _, samples, records = dataset
    path = export("coco_panoptic", tmp_path / "out", samples, records)
    annotations = json.loads(path.read_text())["annotations"]
    assert {a["image_id"] for a in annotations} == {int(i) if i.isdigit() else i for i in samples}
    for annotation in annotations:
        ids = decode_panoptic_png(str(path.with_suffix("") / annotation["file_name"]))
        listed = [s["id"] for s in annotation["segments_info"]]
        assert set(np.unique(ids)) - {0} == set(listed) and 0 not in listed
        prediction = samples[str(annotation["image_id"])][1]
        assert [s["category_id"] for s in annotation["segments_info"]] == prediction.segment_labels.tolist()


def test_segments_without_pixels_are_not_exported(dataset, tmp_path):
    """Neither COCO's layout nor the challenge's may list them; relations keep their segments."""
    _, samples, _ = dataset
    prediction = next(p for _, p in samples.values() if len(p.segment_triplets()[0]) > 2)
    rows, labels = prediction.segment_triplets()[0], prediction.segment_labels
    gone = rows[0, 0]
    prediction.segment_map = np.where(prediction.segment_map == gone + 1, 0, prediction.segment_map)
    kept = [n for n in range(len(labels)) if n != gone]
    expected = [[kept.index(s), kept.index(o), p] for s, o, p in rows.tolist() if gone not in (s, o)]
    for name in ("coco_panoptic", "openpsg"):
        writer = open_writer(name, tmp_path / name)
        writer.add("7", prediction)
        writer.close()
        ((_, found),) = read_predictions(writer.finish(1, {"7": (12, 16)}), ["7"])
        assert found.labels.tolist() == labels[kept].tolist()
        assert found.constrained.tolist() == expected


def test_results_of_another_model_need_no_relations(dataset, tmp_path):
    """COCO's form has none, so only panoptic quality can be computed."""
    _, samples, records = dataset
    path = export("coco_panoptic", tmp_path / "out", samples, records)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.pop("relations")
        annotation.pop("relations_ng", None)
    path.write_text(json.dumps(content))
    found = read_results(path, records)
    assert found.panoptic == core_results(samples).panoptic and found.metrics["single/R@100"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["segments_info"].append({"id": 99, "category_id": 0}), "the PNG has no pixel of the id 99"),
        (lambda a: a["segments_info"].pop(), "segments_info: lacks the id"),
        (lambda a: a.pop("file_name"), "expected the key 'file_name', which is missing"),
        (lambda a: a.update(file_name="../x.png"), "file name: expected a path inside"),
        (lambda a: a["segments_info"][0].update(id=0), "id of segments_info: expected different ids from 1"),
    ],
)
def test_annotations_that_do_not_fit_are_named(change, message, dataset, tmp_path):
    _, samples, records = dataset
    path = export("coco_panoptic", tmp_path / "out", samples, records)
    content = json.loads(path.read_text())
    change(content["annotations"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=f"panoptic.json, image '{content['annotations'][0]['image_id']}': .*{message}"
    ):
        list(read_predictions(path, []))
