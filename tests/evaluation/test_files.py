"""Predictions to files and back, the program that scores them, and the written results."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import load_psg_json
from usg_psg.evaluation import EXPORT_FORMATS, Prediction, SGDetMetrics, SGDetResults, open_writer, read_predictions
from usg_psg.evaluation.export import openpsg_colours
from usg_psg.evaluation.records import (
    images_with_relations,
    predicate_frequency,
    records_of_file,
    score_predictions,
)
from usg_psg.evaluation.report import format_predicates, format_summary

from .dataset import NUM_THINGS, write_dataset
from .scenes import NUM_CLASSES, NUM_PREDICATES

ROOT = Path(__file__).resolve().parents[2]
IS_THING = [n < NUM_THINGS for n in range(NUM_CLASSES)]


@pytest.fixture
def dataset(tmp_path):
    json_file, scenes = write_dataset(tmp_path, 7)
    records = load_psg_json(json_file, tmp_path / "coco", "test")
    return json_file, scenes, records


def core_results(scenes: dict) -> SGDetResults:
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    for gt, prediction in scenes.values():
        metrics.update(gt, prediction)
    return metrics.compute()


def export(name: str, folder: Path, scenes: dict, records: list[dict]) -> Path:
    """Written by two processes, as in a distributed run."""
    writers = [open_writer(name, folder, rank) for rank in range(2)]
    for n, (image_id, (_, prediction)) in enumerate(scenes.items()):
        writers[n % 2].add(image_id, prediction)
    for writer in writers:
        writer.close()
    return writers[0].finish(2, images_with_relations(records))


def read_results(path: Path, records: list[dict]) -> SGDetResults:
    metrics, records = SGDetMetrics(NUM_PREDICATES, IS_THING), records_of_file(path, records)
    return score_predictions(metrics, records, read_predictions(path, images_with_relations(records))).compute()


@pytest.mark.parametrize("name", ["json", "sgbench"])
def test_round_trip_keeps_every_number(name: str, dataset, tmp_path):
    _, scenes, records = dataset
    path = export(name, tmp_path / "out", scenes, records)
    expected, found = core_results(scenes), read_results(path, records)
    np.testing.assert_equal(found.metrics, expected.metrics)
    np.testing.assert_equal(found.panoptic, expected.panoptic)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.counts == expected.counts
    assert expected.metrics["openpsg/NgR@20"] > 0
    leftovers = [p.name for p in (tmp_path / "out").rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]
    assert leftovers == []


def test_submission_keeps_the_constrained_ranking_on_the_map(dataset, tmp_path):
    """The challenge's layout has no overlapping masks, one predicate per pair, no image without relations."""
    _, scenes, records = dataset
    path = export("openpsg", tmp_path / "out", scenes, records)
    expected, found = core_results(scenes), read_results(path, records)
    for k in (10, 20, 50, 100):
        for metric in ("R", "mR", "PR"):
            assert found.metrics[f"single/{metric}@{k}"] == expected.metrics[f"single/{metric}@{k}"]
    with_relations = images_with_relations(records)
    assert found.panoptic == core_results({image_id: scenes[image_id] for image_id in with_relations}).panoptic
    assert found.panoptic != expected.panoptic, "the image without relations has segments"
    entries = json.loads((path / "relation.json").read_text())
    assert len(entries) == len(with_relations) == 6
    first = scenes[with_relations[0]][1]
    # Categories and predicates count from 1, ids say category and instance, colours are permuted.
    rows = first.segment_triplets()[0]
    assert entries[0]["relations"] == (rows + [0, 0, 1]).tolist()
    assert [s["category_id"] for s in entries[0]["segments_info"]] == (first.segment_labels + 1).tolist()
    ids = [s["id"] for s in entries[0]["segments_info"]]
    assert len(set(ids)) == len(ids) and all(i % 1000 == c for i, c in zip(ids, first.segment_labels, strict=True))
    assert np.asarray(Image.open(path / "panseg" / "0.png")).shape == (*first.segment_map.shape, 3)


def test_submission_colours_are_the_challenges_permutation():
    """Python's generator with seed 321; its values are fixed here, so that no change of it goes unseen."""
    colours = openpsg_colours().tolist()
    assert sorted(colours) == list(range(256))
    assert colours[:6] == [141, 100, 32, 95, 143, 244]


def test_submission_with_a_missing_image(dataset, tmp_path):
    _, scenes, records = dataset
    without = dict(scenes)
    missing = images_with_relations(records)[2]
    del without[missing]
    found = read_results(export("openpsg", tmp_path / "out", without, records), records)
    assert found.counts["images_without_predictions"] >= 1
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    for gt, prediction in without.values():
        metrics.update(gt, prediction)
    gt = scenes[missing][0]
    metrics.update_missing(gt.triplets, gt.labels, gt.is_crowd)
    assert found.metrics["single/mR@50"] == metrics.compute().metrics["single/mR@50"]


def test_sgbench_itself_reads_the_archive(dataset, tmp_path):
    """Its numbers agree where its definitions do: recall per image under the rules called `openpsg`.

    Two definitions differ: an image whose mask fits two segments (see test_properties), and mean recall, which it
    averages over all predicates but counts absent ones as NaN.
    """
    pytest.importorskip("tifffile")
    evaluate = pytest.importorskip("sgbench.file").evaluate
    json_file, scenes, records = dataset
    path = export("sgbench", tmp_path / "out", scenes, records)
    theirs = evaluate(json_file, path, tmp_path / "coco")
    ours = core_results(scenes)
    for k in (20, 50, 100):
        assert ours.metrics[f"openpsg_strict/R@{k}"] == pytest.approx(100 * theirs[f"R@{k}"])
        present = ours.predicate_counts > 0
        mean = np.mean(ours.predicate_recall["openpsg_strict"]["mR"][[10, 20, 50, 100].index(k)][present])
        assert present.all()
        assert mean == pytest.approx(100 * theirs[f"mR@{k}"])


def test_a_foreign_sgbench_archive_without_our_keys(dataset, tmp_path):
    _, scenes, records = dataset
    path = export("sgbench", tmp_path / "out", scenes, records)
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(foreign, "w") as target:
        content = json.loads(source.read("triplets.json"))
        for record in content["images"]:
            del record["usg_psg"]
            target.writestr(record["seg_filename"], source.read(record["seg_filename"]))
        target.writestr("triplets.json", json.dumps(content))
    expected, found = core_results(scenes), read_results(foreign, records)
    for key in ("R@20", "mR@50", "NgR@50", "NgmR@100", "PR@20"):
        assert found.metrics[f"openpsg_strict/{key}"] == expected.metrics[f"openpsg_strict/{key}"]
    assert "oracle/pairs@20" not in found.metrics


def test_our_format_without_a_panoptic_map(dataset, tmp_path):
    """A model that has none leaves the key out; the map is made of the masks, as for arrays."""
    _, scenes, records = dataset
    path = export("json", tmp_path / "out", scenes, records)
    content = json.loads(path.read_text())
    for record in content["images"]:
        for key in ("pan_seg_file_name", "segments_info", "pairs"):
            del record[key]
        for instance in record["instances"]:
            del instance["segment_id"]
    path.write_text(json.dumps(content))
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    for gt, given in scenes.values():
        bare = Prediction(given.labels, given.triplets, given.masks, mask_scores=given.mask_scores)
        metrics.update(gt, bare)
    found = read_results(path, records)
    np.testing.assert_equal(found.metrics, metrics.compute().metrics)
    assert found.metrics["single/R@100"] > 0


@pytest.mark.parametrize(("segment_id", "message"), [(99, "segment_id: expected 0 or an id"), (-1, "got -1")])
def test_segments_that_do_not_exist_are_refused(segment_id: int, message: str, dataset, tmp_path):
    _, scenes, records = dataset
    path = export("json", tmp_path / "out", scenes, records)
    content = json.loads(path.read_text())
    content["images"][0]["instances"][0]["segment_id"] = segment_id
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_results(path, records)


@pytest.mark.parametrize("name", sorted(EXPORT_FORMATS))
def test_bad_records_are_named(name: str, dataset, tmp_path):
    _, scenes, records = dataset
    path = export(name, tmp_path / "out", scenes, records)
    image_id = images_with_relations(records)[0]
    if name == "json":
        content = json.loads(path.read_text())
        del next(r for r in content["images"] if r["image_id"] == image_id)["relations"]
        path.write_text(json.dumps(content))
        message = f"predictions.json, image '{image_id}': expected the key 'relations', which is missing"
    elif name == "sgbench":
        with zipfile.ZipFile(path) as source:
            files = {n: source.read(n) for n in source.namelist()}
        content = json.loads(files.pop("triplets.json"))
        next(r for r in content["images"] if r["id"] == image_id)["annotation"].pop()
        with zipfile.ZipFile(path, "w") as target:
            for file, data in files.items():
                target.writestr(file, data)
            target.writestr("triplets.json", json.dumps(content))
        message = f"sgbench.zip, image '{image_id}': "
    else:
        content = json.loads((path / "relation.json").read_text())
        content[0]["relations"] = [[0, 99, 1]]
        (path / "relation.json").write_text(json.dumps(content))
        message = rf"relation.json, image '{image_id}': image '{image_id}': triplets: expected subject and object"
    with pytest.raises(ValueError, match=message):
        read_results(path, records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "other.json: neither an archive nor a complete JSON file"),
        ("[" * 100_000, "other.json: neither an archive nor a complete JSON file"),
        ("{}", "expected this project's JSON"),
        ('{"version": 1, "images": []}', "boxes only"),
        ('{"format": "usg_psg_predictions", "version": 9}', "other.json: expected version 1, got 9"),
        ('{"format": "usg_psg_predictions", "version": 1}', "other.json: expected the key 'images', which is missing"),
        ("[]", "one entry for each of the 6 annotated images with relations, got 0"),
    ],
)
def test_files_of_another_kind_are_refused(text: str, message: str, dataset, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_predictions(path, images_with_relations(dataset[2])))


def test_unknown_and_repeated_images_are_refused(dataset):
    _, scenes, records = dataset
    gt_id, (_, prediction) = next(iter(scenes.items()))
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    with pytest.raises(ValueError, match="predictions, image 'nobody': the annotated split has no such image"):
        score_predictions(metrics, records, [("nobody", prediction)])
    with pytest.raises(ValueError, match=f"predictions, image '{gt_id}': there is a second prediction"):
        score_predictions(metrics, records, [(gt_id, prediction), (gt_id, prediction)])
    with pytest.raises(FileNotFoundError, match="there is no predictions file"):
        list(read_predictions("nowhere.json", []))
    with pytest.raises(ValueError, match="name: expected one of json, sgbench, openpsg, got 'xml'"):
        open_writer("xml", Path("unused"))


def test_a_file_name_cannot_leave_its_folder(dataset, tmp_path):
    _, scenes, records = dataset
    path = export("json", tmp_path / "out", scenes, records)
    content = json.loads(path.read_text())
    content["images"][0]["pan_seg_file_name"] = "../../coco/panoptic_train2017/0.png"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected a path inside"):
        read_results(path, records)


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_program_scores_a_file(dataset, tmp_path, capsys):
    json_file, scenes, records = dataset
    path = export("json", tmp_path / "out", scenes, records)
    main = load_tool("evaluate_predictions").main
    output, plots = tmp_path / "results.json", tmp_path / "plots"
    arguments = ["--gt", str(json_file), "--pred", str(path), "--output", str(output), "--plots", str(plots)]
    assert main([*arguments, "--predicates", "50"]) == 0
    printed = capsys.readouterr().out
    expected = core_results(scenes)
    assert format_summary(expected) in printed
    assert format_predicates(expected, [f"predicate{n}" for n in range(NUM_PREDICATES)], 50) in printed
    assert json.loads(output.read_text())["metrics"]["single/R@50"] == expected.metrics["single/R@50"]
    for name in ("recall_over_k", "recall_per_predicate", "predicate_confusion"):
        with Image.open(plots / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 5  # something was drawn

    content = json.loads(path.read_text())
    content["images"][0]["relations"][0][2] = 99
    broken = path.with_name("broken.json")
    broken.write_text(json.dumps(content))
    assert main(["--gt", str(json_file), "--pred", str(broken)]) == 2
    where = f"{broken}, image '{content['images'][0]['image_id']}': predicted predicate: expected 0 to 4, got 99"
    assert where in capsys.readouterr().err
    assert main(["--gt", str(json_file), "--pred", str(tmp_path / "none.json")]) == 2
    assert "there is no predictions file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ks", "0"], "argument --ks: expected 1 or more, got 0"),
        (["--ks", "20", "-5"], "argument --ks: expected 1 or more, got -5"),
        (["--ks", "x"], "argument --ks: expected a whole number, got 'x'"),
        (["--predicates", "7"], "--predicates: expected one of --ks, 10, 20, 50, 100, got 7"),
        (["--predicates", "50", "--ks", "20"], "--predicates: expected one of --ks, 20, got 50"),
    ],
)
def test_wrong_ranks_are_found_before_anything_is_read(arguments, message, capsys):
    main = load_tool("evaluate_predictions").main
    with pytest.raises(SystemExit) as stopped:
        main(["--gt", "none.json", "--pred", "none.json", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_summary_names_protocols_and_counts(dataset):
    _, scenes, _ = dataset
    results = core_results(scenes)
    text = format_summary(results)
    for protocol in ("single", "openpsg", "openpsg_strict", "usg_pooled"):
        assert text.count(f"| {protocol} ") == 4
    assert f"7 images, 6 with relations, of which {results.counts['images_without_predictions']} have" in text
    assert f"{results.counts['gt_triplets']} annotated triplets" in text


def test_predicate_frequency_counts_relations():
    counts = predicate_frequency([[[0, 1, 2], [1, 0, 2]], [], [[0, 1, 0]]], 4)
    assert counts.tolist() == [1, 0, 2, 0]
