"""The challenge's submissions: folders as OpenPSG writes them, and ours as OpenPSG's loader takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import decode_panoptic_png
from usg_psg.evaluation import Prediction, SGDetMetrics, read_predictions
from usg_psg.evaluation.records import images_with_relations

from ..files import IS_THING, core_results, export, make_dataset, read_results
from ..samples import NUM_PREDICATES

NUM_PSG_CLASSES = 133


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def write_by_hand(folder: Path, images: list[tuple[list[int], np.ndarray, list[list[int]]] | None]) -> Path:
    """A folder in OpenPSG's layout: categories and predicates from 1, masks in plain colours.

    Nothing is written for None, but it takes a number, as a result of another type does in OpenPSG.
    """
    (folder / "panseg").mkdir(parents=True)
    rng, entries = np.random.default_rng(0), []
    for n, image in enumerate(images):
        if image is None:
            continue
        categories, masks, relations = image
        picture, segments = np.zeros((*masks.shape[1:], 3), np.uint8), []
        for category, mask in zip(categories, masks, strict=True):
            red, green, blue = (int(x) for x in rng.integers(0, 255, 3))
            picture[mask] = red, green, blue
            segments.append({"category_id": category, "id": red + 256 * green + 65536 * blue})
        Image.fromarray(picture).save(folder / "panseg" / f"{n}.png")
        entries.append({"relations": relations, "segments_info": segments, "pan_seg_file_name": f"{n}.png"})
    (folder / "relation.json").write_text(json.dumps(entries))
    return folder


def on_map(prediction: Prediction) -> tuple[list[int], np.ndarray, list[list[int]]]:
    """A prediction of the samples as such an image."""
    count = len(prediction.segment_labels)
    masks = prediction.segment_map[None] == np.arange(1, count + 1)[:, None, None]
    rows = prediction.segment_triplets()[0]
    return (prediction.segment_labels + 1).tolist(), masks, (rows + [0, 0, 1]).tolist() or [[0, 0, 0]]


HALVES = np.arange(10) < 5
MASKS = np.stack([np.broadcast_to(half, (8, 10)) for half in (HALVES, ~HALVES)])


def test_a_folder_with_plain_colours_reads_as_intended(tmp_path):
    folder = write_by_hand(tmp_path / "submission", [([133, 1], MASKS, [[1, 0, 56], [0, 1, 1]])])
    ((image_id, prediction),) = read_predictions(folder, ["7"])
    assert image_id == "7"
    assert prediction.labels.tolist() == [132, 0]
    assert prediction.triplets.tolist() == [[1, 0, 55], [0, 1, 0]]
    np.testing.assert_array_equal(prediction.masks, MASKS)


def test_a_folder_of_openpsg_gets_the_figures_of_its_predictions(dataset, tmp_path):
    _, samples, records = dataset
    ids = images_with_relations(records)
    folder = write_by_hand(tmp_path / "submission", [on_map(samples[i][1]) for i in ids])
    expected, found = core_results(samples), read_results(folder, records)
    assert found.metrics["single/R@50"] == expected.metrics["single/R@50"] > 0
    assert found.metrics["single/mR@100"] == expected.metrics["single/mR@100"]


def test_images_that_openpsg_left_out_are_told_by_the_pictures_names(dataset, tmp_path):
    _, samples, records = dataset
    ids = list(images_with_relations(records))
    images = [on_map(samples[i][1]) for i in ids]
    images[2] = None
    folder = write_by_hand(tmp_path / "submission", images)
    assert [i for i, _ in read_predictions(folder, ids)] == ids[:2] + ids[3:]
    entries = json.loads((folder / "relation.json").read_text())
    for name in ("9.png", "-1.png", "x.png", "../0.png", "1.0.png"):
        entries[4]["pan_seg_file_name"] = name
        (folder / "relation.json").write_text(json.dumps(entries))
        with pytest.raises(ValueError, match=rf"entry 4: .*expected 0.png to 5.png.*got '{re.escape(name)}'"):
            list(read_predictions(folder, ids))


def test_an_image_without_detections(tmp_path):
    """OpenPSG writes one segment of the first category, and a row that names no predicate."""
    everything = np.ones((1, 8, 10), dtype=bool)
    folder = write_by_hand(tmp_path / "submission", [([1], everything, [[0, 0, 0]])])
    ((_, prediction),) = read_predictions(folder, ["7"])
    assert prediction.labels.tolist() == [0] and prediction.triplets.shape == (0, 3)


@pytest.mark.parametrize("relations", [[[0, 1, 0]], [[0, 1, 3], [0, 0, 0]]])
def test_no_predicate_beside_other_rows_is_refused(relations, tmp_path):
    folder = write_by_hand(tmp_path / "submission", [([1, 2], MASKS, relations)])
    with pytest.raises(ValueError, match=r"relation.json, image '7': relations: expected predicates from 1, or"):
        list(read_predictions(folder, ["7"]))


def change(folder: Path, **values) -> None:
    entries = json.loads((folder / "relation.json").read_text())
    for n, value in enumerate(values.get("ids", [])):
        entries[0]["segments_info"][n]["id"] = value
    for n, value in enumerate(values.get("categories", [])):
        entries[0]["segments_info"][n]["category_id"] = value
    (folder / "relation.json").write_text(json.dumps(entries))


def test_a_listed_id_without_pixels_is_refused(tmp_path):
    """As the ids of a picture whose colours were permuted have none."""
    folder = write_by_hand(tmp_path / "submission", [([1, 2], MASKS, [[0, 1, 3]])])
    change(folder, ids=[12345])
    message = r"relation.json, image '7': segments_info: the PNG has no pixel of the id 12345 .* as of 1 of 2 segments"
    with pytest.raises(ValueError, match=message):
        list(read_predictions(folder, ["7"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ids": [5, 5]}, r"id of segments_info: expected different ids from 0, got \[5, 5\]"),
        ({"categories": [0]}, "category_id of segments_info: expected categories from 1, got 0"),
    ],
)
def test_entries_that_do_not_fit_are_named(values, message, tmp_path):
    folder = write_by_hand(tmp_path / "submission", [([1, 2], MASKS, [[0, 1, 3]])])
    change(folder, **values)
    with pytest.raises(ValueError, match=rf"relation.json, image '7': {message}"):
        list(read_predictions(folder, ["7"]))


def test_our_export_keeps_the_constrained_ranking_on_the_map(dataset, tmp_path):
    """The layout has no overlapping masks, one predicate per pair, no image without relations."""
    _, samples, records = dataset
    path = export("openpsg", tmp_path / "out", samples, records)
    expected, found = core_results(samples), read_results(path, records)
    for k in (10, 20, 50, 100):
        for metric in ("R", "mR", "PR"):
            assert found.metrics[f"single/{metric}@{k}"] == expected.metrics[f"single/{metric}@{k}"]
    with_relations = images_with_relations(records)
    assert found.panoptic == core_results({image_id: samples[image_id] for image_id in with_relations}).panoptic
    assert found.panoptic != expected.panoptic, "the image without relations has segments"


def test_pixels_of_our_export_are_ids(dataset, tmp_path):
    """id = R + 256 G + 65536 B; pixels without segment have an id that OpenPSG's panoptic evaluation leaves out."""
    _, samples, records = dataset
    path = export("openpsg", tmp_path / "out", samples, records)
    entries = json.loads((path / "relation.json").read_text())
    ids = images_with_relations(records)
    assert len(entries) == len(ids) == 6
    for entry, image_id in zip(entries, ids, strict=True):
        prediction = samples[image_id][1]
        pixels = np.asarray(Image.open(path / "panseg" / entry["pan_seg_file_name"])).astype(int)
        decoded = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        listed = [s["id"] for s in entry["segments_info"]]
        np.testing.assert_array_equal(decoded, np.array([NUM_PSG_CLASSES, *listed])[prediction.segment_map])
        assert [s["category_id"] for s in entry["segments_info"]] == (prediction.segment_labels + 1).tolist()
        assert entry["relations"] == on_map(prediction)[2]


def loaded(folder: Path) -> list[dict]:
    """What OpenPSG's loader makes of a folder, restated: every step of it must be possible."""
    results = []
    for entry in json.loads((folder / "relation.json").read_text()):
        ids = decode_panoptic_png(str(folder / "panseg" / entry["pan_seg_file_name"]))
        relations = np.asarray(entry["relations"])
        dists = np.zeros((len(relations), 57))
        dists[np.arange(len(relations)), relations[:, 2]] = 1
        labels = np.array([s["category_id"] for s in entry["segments_info"]])
        # Its evaluation looks up the ends of every row, and refuses masks of another size than the annotation's.
        assert (relations[:, :2] < len(labels)).all() and len(relations)
        codes, seen = ids.astype(int).copy(), {}
        for segment in entry["segments_info"]:
            label, earlier = segment["category_id"], seen.get(segment["category_id"], 0)
            codes[ids == segment["id"]] = label - 1 + 1000 * earlier
            seen[label] = earlier + 1
        masks = np.stack([ids == s["id"] for s in entry["segments_info"]])
        predicates = dists[:, 1:].argmax(axis=1)
        results.append({"labels": labels, "masks": masks, "codes": codes, "predicates": predicates, "rows": relations})
    return results


def test_openpsgs_loader_reads_our_export(dataset, tmp_path):
    """Also an image that has no prediction, one without segments, and one without relations."""
    _, samples, records = dataset
    ids = list(images_with_relations(records))
    without = dict(samples)
    del without[ids[2]]
    empty = np.zeros((0, 3), np.int64)
    gt, _ = samples[ids[3]]
    without[ids[3]] = gt, Prediction(empty[:, 0], empty, np.zeros((0, *gt.label_map.shape), bool), image_id=ids[3])
    gt, silent = samples[ids[4]]
    without[ids[4]] = gt, Prediction(silent.labels, empty, silent.masks, image_id=ids[4])
    results = loaded(export("openpsg", tmp_path / "out", without, records))
    for image_id, result in zip(ids, results, strict=True):
        gt, _ = samples[image_id]
        assert result["masks"].shape[1:] == gt.label_map.shape
        assert result["masks"].any(axis=(1, 2)).all()
        classes = set(np.unique(result["codes"] % 1000)) - {NUM_PSG_CLASSES}  # what its panoptic evaluation counts
        if image_id in ids[2:4]:
            assert classes == set() and result["labels"].tolist() == [NUM_PSG_CLASSES + 1]
            continue
        labels, masks, rows = on_map(without[image_id][1])
        assert classes == {label - 1 for label in labels}
        assert result["labels"].tolist() == labels and result["rows"].tolist() == rows
        np.testing.assert_array_equal(result["masks"], masks)


def test_a_missing_image_stays_missing(dataset, tmp_path):
    _, samples, records = dataset
    without = dict(samples)
    missing = list(images_with_relations(records))[2]
    del without[missing]
    found = read_results(export("openpsg", tmp_path / "out", without, records), records)
    assert found.counts["images_without_predictions"] >= 1
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    with_relations = images_with_relations(records)
    for image_id, (gt, prediction) in without.items():
        if image_id in with_relations:
            metrics.update(gt, prediction)
    gt = samples[missing][0]
    metrics.update_missing(gt.triplets, gt.labels, gt.is_crowd)
    assert found.metrics["single/mR@50"] == metrics.compute().metrics["single/mR@50"]
    assert found.panoptic == metrics.compute().panoptic
