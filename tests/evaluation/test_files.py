"""Predictions to files and back, the program that scores them, and the written results."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usg_psg.data.psg_json import open_psg
from usg_psg.evaluation import (
    EXPORT_FORMATS,
    Prediction,
    SGDetMetrics,
    open_writer,
    read_predictions,
)
from usg_psg.evaluation.records import (
    images_with_relations,
    score_predictions,
    training_triplets_of_file,
)
from usg_psg.evaluation.report import format_predicates, format_summary

from .files import IS_THING, core_results, export, make_dataset, rank_apart, read_results
from .samples import NUM_CLASSES, NUM_PREDICATES, training_triplets_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


@pytest.mark.parametrize("name", ["json", "sgbench"])
@pytest.mark.parametrize("separate", [False, True], ids=["one_ranking", "two_rankings"])
def test_round_trip_keeps_every_number(name: str, separate: bool, dataset, tmp_path):
    """Also of a model that ranks apart without graph constraint."""
    _, samples, records = dataset
    samples = rank_apart(samples) if separate else samples
    path = export(name, tmp_path / "out", samples, records)
    expected, found = core_results(samples), read_results(path, records)
    np.testing.assert_equal(found.metrics, expected.metrics)
    np.testing.assert_equal(found.panoptic, expected.panoptic)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert found.counts == expected.counts
    assert expected.metrics["openpsg/NgR@20"] > 0
    leftovers = [p.name for p in (tmp_path / "out").rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"]
    assert leftovers == []


def test_our_format_without_a_panoptic_map(dataset, tmp_path):
    """A model that has none leaves the key out; the map is made of the masks, as for arrays."""
    _, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
    content = json.loads(path.read_text())
    for record in content["images"]:
        for key in ("pan_seg_file_name", "segments_info", "pairs"):
            del record[key]
        for instance in record["instances"]:
            del instance["segment_id"]
    path.write_text(json.dumps(content))
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    for gt, given in samples.values():
        bare = Prediction(given.labels, given.triplets, given.masks, mask_scores=given.mask_scores)
        metrics.update(gt, bare)
    found = read_results(path, records)
    np.testing.assert_equal(found.metrics, metrics.compute().metrics)
    assert found.metrics["single/R@100"] > 0


@pytest.mark.parametrize(("segment_id", "message"), [(99, "segment_id: expected 0 or an id"), (-1, "got -1")])
def test_segments_that_do_not_exist_are_refused(segment_id: int, message: str, dataset, tmp_path):
    _, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
    content = json.loads(path.read_text())
    content["images"][0]["instances"][0]["segment_id"] = segment_id
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_results(path, records)


@pytest.mark.parametrize("name", sorted(EXPORT_FORMATS))
def test_bad_records_are_named(name: str, dataset, tmp_path):
    _, samples, records = dataset
    path = export(name, tmp_path / "out", samples, records)
    image_id = next(iter(images_with_relations(records)))
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
        file = path / "relation.json" if name == "openpsg" else path
        content = json.loads(file.read_text())
        if name == "coco_panoptic":
            entry = next(r for r in content["annotations"] if str(r["image_id"]) == image_id)
        else:
            entry = content[0]
        entry["relations"] = [[0, 99, 1]]
        file.write_text(json.dumps(content))
        message = rf"{file.name}, image '{image_id}': image '{image_id}': triplets: expected subject and object"
    with pytest.raises(ValueError, match=message):
        read_results(path, records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "other.json: neither an archive, nor a pickle, nor a complete JSON file"),
        ("[" * 100_000, "other.json: neither an archive, nor a pickle, nor a complete JSON file"),
        ("{}", "expected this project's JSON"),
        ('{"version": 1, "images": []}', "boxes only"),
        ('{"format": "usg_psg_predictions", "version": 9}', "other.json: expected version 1, got 9"),
        ('{"format": "usg_psg_predictions", "version": 1}', "other.json: expected the key 'images', which is missing"),
        ("[" + 7 * "{}," + "{}]", "at most one entry for each of the 6 annotated images with relations, got 8"),
    ],
)
def test_files_of_another_kind_are_refused(text: str, message: str, dataset, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_predictions(path, images_with_relations(dataset[2])))


def test_unknown_and_repeated_images_are_refused(dataset):
    _, samples, records = dataset
    gt_id, (_, prediction) = next(iter(samples.items()))
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING)
    with pytest.raises(ValueError, match="predictions, image 'nobody': the annotated split has no such image"):
        score_predictions(metrics, records, [("nobody", prediction)])
    with pytest.raises(ValueError, match=f"predictions, image '{gt_id}': there is a second prediction"):
        score_predictions(metrics, records, [(gt_id, prediction), (gt_id, prediction)])
    with pytest.raises(FileNotFoundError, match="there is no predictions file"):
        list(read_predictions("nowhere.json", []))
    with pytest.raises(ValueError, match="name: expected one of json, sgbench, openpsg, coco_panoptic, got 'xml'"):
        open_writer("xml", Path("unused"))


def test_run_lengths_of_another_size_are_refused_before_they_become_pixels(dataset, tmp_path):
    """Four gigabytes of them."""
    _, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
    content = json.loads(path.read_text())
    record = content["images"][0]
    for key in ("pan_seg_file_name", "segments_info"):
        del record[key]
    record["instances"][0]["segmentation"] = {"size": [65535, 65535], "counts": [65535**2]}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"masks: expected height and width \(12, 16\), got \(65535, 65535\)"):
        read_results(path, records)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("relations", None, "relations: the key is missing"),
        ("relations", [[0, 1, 99]], "relations[0]: predicate 99 is out of range, expected 0..4"),
        ("relations", [[0, 1]], "relations[0]: expected [subject, object, predicate] as integers, got [0, 1]"),
        ("relations", 5, "relations: expected list, got int"),
        ("segments_info", [5], "segments_info[0]: expected an object, got int"),
    ],
)
def test_a_faulty_training_record_is_named(key, value, message, dataset, tmp_path, capsys):
    """Its relations are counted for head, body and tail."""
    json_file, samples, records = dataset
    content = json.loads(json_file.read_text())
    training = {**content["data"][0], "image_id": "t", key: value}
    if value is None:
        del training[key]
    content["data"].append(training)
    json_file.write_text(json.dumps(content))
    arguments = ["--gt", str(json_file), "--pred", str(export("json", tmp_path / "out", samples, records))]
    assert load_tool("evaluate_predictions").main(arguments) == 2
    assert f"{json_file}, image_id 't', {message}" in capsys.readouterr().err


def test_a_file_name_cannot_leave_its_folder(dataset, tmp_path):
    _, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
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
    json_file, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
    main = load_tool("evaluate_predictions").main
    output, plots = tmp_path / "results.json", tmp_path / "plots"
    arguments = ["--gt", str(json_file), "--pred", str(path), "--output", str(output), "--plots", str(plots)]
    assert main([*arguments, "--predicates", "50"]) == 0
    printed = capsys.readouterr().out
    expected = core_results(samples)
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
    message = "predicted predicate, counted from 0: expected 0 to 4, got 99"
    assert f"{broken}, image '{content['images'][0]['image_id']}': {message}" in capsys.readouterr().err
    assert main(["--gt", str(json_file), "--pred", str(tmp_path / "none.json")]) == 2
    assert "there is no predictions file" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(EXPORT_FORMATS))
def test_the_program_converts_a_file(name: str, dataset, tmp_path, capsys):
    json_file, samples, records = dataset
    missing = list(images_with_relations(records))[1]
    path = export("json", tmp_path / "out", {i: s for i, s in samples.items() if i != missing}, records)
    arguments = ["--gt", str(json_file), "--pred", str(path), "--export", name, str(tmp_path / "other")]
    assert load_tool("evaluate_predictions").main(arguments) == 0
    other = Path(capsys.readouterr().out.strip().rpartition("predictions are in ")[2])
    assert other.parent == tmp_path / "other"
    expected, found = read_results(path, records).metrics, read_results(other, records).metrics
    for key in ("single/R@50", "single/mR@20", "single/PR@100"):
        assert found[key] == expected[key] > 0


def with_training_images(json_file: Path, path: Path, num_images: int) -> dict:
    """A file like another, whose first images are not in the test split; returns its content."""
    content = json.loads(json_file.read_text())
    content["test_image_ids"] = content["test_image_ids"][num_images:]
    path.write_text(json.dumps(content))
    return content


def test_the_program_scores_the_frequency_baseline(dataset, tmp_path, capsys):
    json_file, samples, records = dataset
    path, train = export("json", tmp_path / "out", samples, records), tmp_path / "train.json"
    content = with_training_images(json_file, train, 3)
    main = load_tool("evaluate_predictions").main
    arguments = ["--gt", str(json_file), "--pred", str(path), "--frequency-baseline"]
    assert main([*arguments, "--train", str(train)]) == 0
    images = [samples[record["image_id"]][0] for record in content["data"][:3]]
    images = [(gt.labels, gt.triplets) for gt in images]
    training = training_triplets_of(images, NUM_CLASSES, NUM_PREDICATES)
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING, training=training, baseline=True)
    for gt, prediction in samples.values():
        metrics.update(gt, prediction)
    expected = metrics.compute()
    assert expected.metrics["single/zR@50"] != expected.metrics["single/R@50"]
    assert np.array_equal(expected.predicate_frequency, training.predicates)
    printed = capsys.readouterr().out
    assert format_summary(expected) in printed and "frequency baseline, the same objects:" in printed


def test_metrics_that_need_training_data_are_left_out_without_it(dataset, tmp_path, capsys, caplog):
    json_file, samples, records = dataset
    path = export("json", tmp_path / "out", samples, records)
    assert load_tool("evaluate_predictions").main(["--gt", str(json_file), "--pred", str(path)]) == 0
    assert f"{json_file} has no training relations: zR and the frequency baseline are left out" in caplog.text
    printed = capsys.readouterr().out
    assert "zR" not in printed and "baseline" not in printed


def test_a_default_image_root_that_does_not_exist_is_named(dataset, tmp_path, capsys):
    json_file = tmp_path / "other" / "mine" / "psg.json"
    json_file.parent.mkdir(parents=True)
    json_file.write_bytes(Path(dataset[0]).read_bytes())
    assert load_tool("evaluate_predictions").main(["--gt", str(json_file), "--pred", str(json_file)]) == 2
    assert f"--image-root: there is no folder {tmp_path}/other/coco, the default" in capsys.readouterr().err


def test_training_data_of_a_file(dataset, tmp_path):
    json_file, _, _ = dataset
    train = tmp_path / "train.json"
    content = with_training_images(json_file, train, 5)
    vocabulary = open_psg(json_file).vocabulary
    found = training_triplets_of_file(open_psg(train), vocabulary, "test")
    images = content["data"][:5]
    assert found.relations.sum() == sum(len({tuple(row) for row in image["relations"]}) for image in images) > 0
    content["predicate_classes"][0] = "another"
    train.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"predicate_classes\[0\]: registered as 'predicate0', the file says"):
        training_triplets_of_file(open_psg(train), vocabulary, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", "xml", "x"], "--export: expected one of json, sgbench, openpsg, coco_panoptic, got 'xml'"),
        (["--ks", "0"], "argument --ks: expected 1 or more, got 0"),
        (["--ks", "20", "-5"], "argument --ks: expected 1 or more, got -5"),
        (["--ks", "x"], "argument --ks: expected a whole number, got 'x'"),
        (["--predicates", "7"], "--predicates: expected one of --ks, 10, 20, 50, 100, got 7"),
        (["--predicates", "50", "--ks", "20"], "--predicates: expected one of --ks, 20, got 50"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_read(arguments, message, capsys):
    main = load_tool("evaluate_predictions").main
    with pytest.raises(SystemExit) as stopped:
        main(["--gt", "none.json", "--pred", "none.json", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_summary_names_protocols_and_counts(dataset):
    _, samples, _ = dataset
    results = core_results(samples)
    text = format_summary(results)
    for protocol in ("single", "openpsg", "openpsg_rows", "openpsg_strict", "usg_pooled"):
        assert text.count(f"| {protocol} ") == 4
    assert f"7 images, 6 with relations, of which {results.counts['images_without_predictions']} have" in text
    assert f"{results.counts['gt_triplets']} annotated triplets" in text
