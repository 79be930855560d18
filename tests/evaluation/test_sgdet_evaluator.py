"""SGDetEvaluator against the array core, in one process and in two."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation import print_csv_format

from usg_psg.data import unregister_psg
from usg_psg.evaluation import SGDetEvaluator, SGDetMetrics, read_predictions
from usg_psg.evaluation.matching import mask_overlap
from usg_psg.evaluation.sgdet_evaluator import prediction_from_output, tensor_overlap

from ..programs import run_job
from ..tiny import tiny_model
from .dataset import NUM_THINGS, model_output, register, write_dataset
from .samples import NUM_CLASSES, NUM_PREDICATES, random_training

IS_THING = [n < NUM_THINGS for n in range(NUM_CLASSES)]
NAME = "evaluation_test"


@pytest.fixture
def dataset(tmp_path):
    json_file, samples = write_dataset(tmp_path, 7)
    register(NAME, json_file)
    yield samples
    unregister_psg(NAME)


def core_results(samples: dict, skip: str = "", **options):
    metrics = SGDetMetrics(NUM_PREDICATES, IS_THING, **options)
    for image_id, (gt, prediction) in samples.items():
        if image_id != skip:
            metrics.update(gt, prediction)
    if skip:
        gt = samples[skip][0]
        metrics.update_missing(gt.triplets, gt.labels, gt.is_crowd)
    return metrics.compute()


def run(evaluator: SGDetEvaluator, samples: dict, skip: str = "") -> dict:
    evaluator.reset()
    for image_id, (_, prediction) in samples.items():
        if image_id != skip:
            evaluator.process([{"image_id": image_id}], [model_output(prediction)])
    return evaluator.evaluate()


def test_equals_the_array_core(dataset, tmp_path):
    evaluator = SGDetEvaluator(NAME, str(tmp_path / "out"))
    results = run(evaluator, dataset)
    expected = core_results(dataset)
    assert list(results) == ["sgdet", "panoptic"]
    np.testing.assert_equal(dict(results["sgdet"]), expected.metrics)
    np.testing.assert_equal(dict(results["panoptic"]), expected.panoptic)
    assert 0 < results["sgdet"]["openpsg/R@100"] < 100  # the samples are neither trivial nor hopeless
    assert 0 < results["sgdet"]["single/mR@50"] < 100
    print_csv_format(results)

    written = json.loads((tmp_path / "out" / f"sgdet_{NAME}.json").read_text())
    assert written["metrics"]["single/R@50"] == results["sgdet"]["single/R@50"]
    assert written["counts"]["images"] == 7 and written["counts"]["images_with_relations"] == 6
    assert [row["name"] for row in written["predicates"]] == [f"predicate{n}" for n in range(NUM_PREDICATES)]
    assert sum(row["gt_triplets"] for row in written["predicates"]) == written["counts"]["gt_triplets"]


def test_runs_again_after_reset(dataset):
    evaluator = SGDetEvaluator(NAME)
    np.testing.assert_equal(run(evaluator, dataset), run(evaluator, dataset))


def test_images_that_were_not_processed_count_as_missing(dataset, caplog):
    skipped = next(iter(dataset))
    with caplog.at_level(logging.WARNING, "usg_psg"):
        logging.getLogger("usg_psg").propagate = True
        results = run(SGDetEvaluator(NAME), dataset, skip=skipped)
    np.testing.assert_equal(dict(results["sgdet"]), core_results(dataset, skip=skipped).metrics)
    assert results["sgdet"]["openpsg_strict/R@100"] < core_results(dataset).metrics["openpsg_strict/R@100"] + 1e-9
    assert "1 annotated images have no prediction" in caplog.text


def test_predcls_names_itself_and_leaves_panoptic_quality_out(dataset, tmp_path):
    results = run(SGDetEvaluator(NAME, str(tmp_path / "out"), task="predcls"), dataset)
    assert list(results) == ["predcls"]
    assert (tmp_path / "out" / f"predcls_{NAME}.json").is_file()


def test_training_data_bring_zero_shot_recall_and_the_baseline(dataset, tmp_path):
    training = random_training(np.random.default_rng(0))
    results = run(SGDetEvaluator(NAME, str(tmp_path), training=training), dataset)
    expected = core_results(dataset, training=training, baseline=True).metrics
    np.testing.assert_equal(dict(results["sgdet"]), expected)
    # Where objects are given, their scores do not count.
    given = run(SGDetEvaluator(NAME, task="predcls", training=training), dataset)["predcls"]
    expected = core_results(dataset, training=training, baseline=True, baseline_scores=False).metrics
    np.testing.assert_equal(dict(given), expected)
    assert given["frequency/single/R@10"] != results["sgdet"]["frequency/single/R@10"]
    written = json.loads((tmp_path / f"sgdet_{NAME}.json").read_text())["metrics"]
    assert written["frequency/single/mR@50"] == results["sgdet"]["frequency/single/mR@50"]


def test_misuse_is_refused(dataset):
    with pytest.raises(ValueError, match="task: expected 'sgdet', 'predcls', got 'sgcls'"):
        SGDetEvaluator(NAME, task="sgcls")
    with pytest.raises(ValueError, match="output_dir: expected a folder"):
        SGDetEvaluator(NAME, export="json")
    with pytest.raises(ValueError, match="keep_worst: expected 0 or more, got -1"):
        SGDetEvaluator(NAME, keep_worst=-1)
    evaluator = SGDetEvaluator(NAME)
    image_id = next(iter(dataset))
    output = model_output(dataset[image_id][1])
    evaluator.process([{"image_id": image_id}], [output])
    with pytest.raises(ValueError, match=f"image_id: '{image_id}' was evaluated before"):
        evaluator.process([{"image_id": image_id}], [output])
    with pytest.raises(ValueError, match="image_id: 'nobody' is not in the data set"):
        evaluator.process([{"image_id": "nobody"}], [output])
    other = list(dataset)[1]
    wrong = model_output(dataset[other][1])
    cut = type(wrong["instances"])((5, 5))
    cut.pred_masks = wrong["instances"].pred_masks[:, :5, :5]
    for name in ("pred_classes", "scores", "segment_ids"):
        cut.set(name, wrong["instances"].get(name))
    with pytest.raises(ValueError, match=f"image '{other}': masks: expected height and width .12, 16., got .5, 5."):
        evaluator.process([{"image_id": other}], [{**wrong, "instances": cut}])


def test_two_processes_give_the_numbers_of_one(tmp_path):
    run_job(2, "-m", "tests.evaluation.job", tmp_path)
    merged = json.loads((tmp_path / "merged.json").read_text())
    _, samples = write_dataset(tmp_path / "alone", 7)
    expected = core_results(samples, training=random_training(np.random.default_rng(0)), baseline=True)
    assert expected.metrics["frequency/single/R@50"] > 0 and "openpsg/zR@50" in expected.metrics
    np.testing.assert_equal(merged["sgdet"], expected.metrics)
    np.testing.assert_equal(merged["panoptic"], expected.panoptic)
    # What the processes exported is one file with every image.
    exported = dict(read_predictions(Path(tmp_path) / "predictions_job" / "predictions.json", []))
    assert set(exported) == set(samples)


def test_takes_what_the_model_gives(dataset, tmp_path):
    """An untrained model: many masks that overlap, few segments."""
    drawn = []
    model = tiny_model(object_threshold=0.0, overlap_threshold=0.0).eval()
    evaluator = SGDetEvaluator(NAME, str(tmp_path / "out"), export="json", draw=drawn.append)
    rows = 0
    for image_id, (gt, _) in dataset.items():
        height, width = gt.label_map.shape
        inputs = {"image": torch.randint(0, 256, (3, 64, 96)), "image_id": image_id, "height": height, "width": width}
        with torch.no_grad():
            output = model([inputs])[0]
        prediction = prediction_from_output(output, gt)
        scores = output["relations"]["score"]
        assert (scores[:-1] >= scores[1:]).all()
        np.testing.assert_array_equal(prediction.triplets[:, 2], output["relations"]["predicate"])  # order kept
        constrained, unconstrained = prediction.segment_triplets()
        assert len(np.unique(constrained[:, :2], axis=0)) == len(constrained)
        assert (constrained[:, 0] != constrained[:, 1]).all()
        assert len(unconstrained) <= len(prediction.unconstrained)
        rows += len(prediction.unconstrained)
        evaluator.process([inputs], [output])
    assert rows > 0
    results = evaluator.evaluate()
    assert np.isfinite(list(results["sgdet"].values())).mean() > 0.9
    assert evaluator.results.counts["images_with_proposals"] == 7
    assert drawn == [evaluator]
    assert (tmp_path / "out" / f"predictions_{NAME}" / "predictions.json").is_file()


def test_overlap_of_tensors_equals_that_of_arrays(dataset):
    """The code that runs where masks are on a GPU, here on the CPU."""
    for gt, prediction in dataset.values():
        ours = tensor_overlap(torch.from_numpy(prediction.masks), gt)
        expected = mask_overlap(prediction.masks, gt.label_map, len(gt.labels))
        for name in ("intersection", "pred_area", "gt_area"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
            assert getattr(ours, name).dtype == np.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_on_a_gpu_give_the_same(dataset):
    evaluator = SGDetEvaluator(NAME)
    for image_id, (_, prediction) in dataset.items():
        output = model_output(prediction)
        output["instances"] = output["instances"].to("cuda")
        output["panoptic_seg"] = (output["panoptic_seg"][0].cuda(), output["panoptic_seg"][1])
        for part in ("relations", "pairs"):
            output[part] = {name: column.cuda() for name, column in output[part].items()}
        evaluator.process([{"image_id": image_id}], [output])
    np.testing.assert_equal(dict(evaluator.evaluate()["sgdet"]), core_results(dataset).metrics)
