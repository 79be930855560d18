"""The worst images of an evaluation: which are kept, in what order, and their pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import get_psg_metadata, unregister_psg
from usg_psg.evaluation import Prediction, SGDetEvaluator, SGDetMetrics
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.worst_images import WorstImages, scene_graph_of_annotation
from usg_psg.visualization.comparison import compare_graphs
from usg_psg.vocabulary import Vocabulary

from .dataset import NUM_THINGS, model_output, register, with_map, write_dataset
from .scenes import NUM_CLASSES, NUM_PREDICATES, perfect_prediction

NAME = "worst_pictures_test"


@pytest.fixture
def dataset(tmp_path):
    json_file, scenes = write_dataset(tmp_path, 9)
    register(NAME, json_file)
    for n, (image_id, (gt, _)) in enumerate(scenes.items()):
        if n % 2:  # one in two is right as far as it goes; random masks alone hit next to nothing
            prediction = perfect_prediction(gt)
            prediction.triplets = prediction.triplets[: 1 + n // 2]
            prediction.mask_scores = np.ones(len(gt.labels))
            scenes[image_id] = (gt, prediction)
    yield scenes
    unregister_psg(NAME)


def recalls(scenes: dict, k: int) -> dict[str, float]:
    """single/R@k of each image with relations, of the metrics."""
    found = {}
    for image_id, (gt, prediction) in scenes.items():
        if len(gt.triplets):
            metrics = SGDetMetrics(NUM_PREDICATES, [n < NUM_THINGS for n in range(NUM_CLASSES)], ks=(k,))
            metrics.update(gt, prediction)
            found[image_id] = metrics.compute().metrics[f"single/R@{k}"]
    return found


def collect(scenes: dict, count: int, k: int, ids=None) -> WorstImages:
    kept = WorstImages(count, Vocabulary.from_metadata(get_psg_metadata(NAME)), k)
    for image_id in scenes if ids is None else ids:
        gt, prediction = scenes[image_id]
        kept.add(ImageMatch(gt, prediction), model_output(prediction))
    return kept


@pytest.mark.parametrize("k", [2, 20])
def test_the_worst_are_kept_in_order(dataset, k):
    expected = recalls(dataset, k)
    assert len(expected) == 8 and len(set(expected.values())) > 2
    for count in (1, 3, 20):
        worst = collect(dataset, count, k).worst()
        assert len(worst) == min(count, 8)
        assert [100 * recall for _, recall, _, _ in worst] == pytest.approx(sorted(expected.values())[:count])
        assert all(expected[image_id] == pytest.approx(100 * recall) for image_id, recall, _, _ in worst)


def test_a_picture_shows_the_recall_of_its_title(dataset):
    """Also where a pair whose ends became one segment took a rank, though no graph has it."""
    names, merged = collect(dataset, 1, 1).vocabulary, 0
    for image_id, recall, graph, shown in collect(dataset, 20, 3).worst():
        gt, prediction = dataset[image_id]
        result = compare_graphs(scene_graph_of_annotation(gt, names), graph, shown)
        assert result.found / len(result.annotated) == pytest.approx(recall)
        merged += shown < len(prediction.segment_triplets()[0][:3])
    assert merged > 0


def test_several_processes_keep_what_one_does(dataset):
    ids = list(dataset)
    one = collect(dataset, 4, 5)
    first, second = collect(dataset, 4, 5, ids[::2]), collect(dataset, 4, 5, ids[1::2])
    first.merge(second)
    assert first.worst() == one.worst() == collect(dataset, 4, 5, ids[::-1]).worst()


def test_annotation_as_a_graph(dataset):
    gt = next(gt for gt, _ in dataset.values() if len(gt.triplets))
    metadata = get_psg_metadata(NAME)
    graph = scene_graph_of_annotation(gt, Vocabulary.from_metadata(metadata))
    for n, thing in enumerate(graph.objects):
        assert (thing.mask_array() == (gt.label_map == n + 1)).all()
        assert thing.name == metadata.object_classes[gt.labels[n]] and thing.isthing == (gt.labels[n] < NUM_THINGS)
    assert [(r.subject, r.object, r.predicate_id) for r in graph.relations] == [tuple(t) for t in gt.triplets.tolist()]


def test_the_evaluator_draws_them(dataset, tmp_path, caplog):
    with pytest.raises(ValueError, match="output_dir"):
        SGDetEvaluator(NAME, pictures=2)
    with pytest.raises(ValueError, match="-1"):
        SGDetEvaluator(NAME, str(tmp_path), pictures=-1)
    for n, (image_id, (gt, _)) in enumerate(dataset.items()):
        if image_id != "folder/7":  # its picture is missing
            path = tmp_path / "coco" / "train2017" / f"{n}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((*gt.label_map.shape, 3), 128, np.uint8)).save(path)
    evaluator, folder = SGDetEvaluator(NAME, str(tmp_path / "out"), pictures=8), tmp_path / "out" / f"pictures_{NAME}"
    for evaluated in ({}, dataset):  # the first time another model, which is wrong about every image
        evaluator.reset()
        for image_id, (_, prediction) in dataset.items():
            if image_id not in evaluated:
                prediction = Prediction(prediction.labels[::-1], prediction.triplets[:0], prediction.masks)
                prediction = with_map(prediction, dataset[image_id][0], np.random.default_rng(0))
            evaluator.process([{"image_id": image_id}], [model_output(prediction)])
        evaluator.evaluate()
        if not evaluated:
            first = {path.name for path in folder.iterdir()}
            (folder / "notes.txt").touch()
    written = sorted(path.name for path in folder.glob("*.png"))
    assert not first <= set(written) and (folder / "notes.txt").exists()
    order = [image_id for image_id, _, _, _ in collect(dataset, 8, 20).worst()]
    assert (
        written == [f"{n:03d}_{i}.png" for n, i in enumerate(order, start=1) if i != "folder/7"] and len(written) == 7
    )
    assert "no picture of image folder/7" in caplog.text
    assert Image.open(folder / written[0]).width > 1000
