"""The worst images of an evaluation: which are kept, and in what order."""

from __future__ import annotations

import numpy as np
import pytest

from usg_psg.data import get_psg_metadata, unregister_psg
from usg_psg.evaluation import SGDetMetrics
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.worst_images import WorstImages, graph_of_annotation
from usg_psg.vocabulary import Vocabulary

from .dataset import NUM_THINGS, model_output, register, write_dataset
from .samples import NUM_CLASSES, NUM_PREDICATES, perfect_prediction

NAME = "worst_images_test"


@pytest.fixture
def dataset(tmp_path):
    json_file, samples = write_dataset(tmp_path, 9)
    register(NAME, json_file)
    for n, (image_id, (gt, _)) in enumerate(samples.items()):
        if n % 2:  # one in two is right as far as it goes; random masks alone hit next to nothing
            prediction = perfect_prediction(gt)
            prediction.triplets = prediction.triplets[: 1 + n // 2]
            prediction.mask_scores = np.ones(len(gt.labels))
            samples[image_id] = (gt, prediction)
    yield samples
    unregister_psg(NAME)


def recalls(samples: dict, k: int) -> dict[str, float]:
    """single/R@k of each image with relations, of the metrics."""
    found = {}
    for image_id, (gt, prediction) in samples.items():
        if len(gt.triplets):
            metrics = SGDetMetrics(NUM_PREDICATES, [n < NUM_THINGS for n in range(NUM_CLASSES)], ks=(k,))
            metrics.update(gt, prediction)
            found[image_id] = metrics.compute().metrics[f"single/R@{k}"]
    return found


def collect(samples: dict, count: int, k: int, ids=None) -> WorstImages:
    kept = WorstImages(count, Vocabulary.from_metadata(get_psg_metadata(NAME)), k)
    for image_id in samples if ids is None else ids:
        gt, prediction = samples[image_id]
        kept.add(ImageMatch(gt, prediction), model_output(prediction))
    return kept


@pytest.mark.parametrize("k", [2, 20])
def test_the_worst_are_kept_in_order(dataset, k):
    expected = recalls(dataset, k)
    assert len(expected) == 8 and len(set(expected.values())) > 2
    for count in (1, 3, 20):
        worst = collect(dataset, count, k).images
        assert len(worst) == min(count, 8)
        assert [100 * image.recall for image in worst] == pytest.approx(sorted(expected.values())[:count])
        assert all(expected[image.image_id] == pytest.approx(100 * image.recall) for image in worst)
        assert not any(f"{image.recall}".startswith("-") for image in worst)


def test_several_processes_keep_what_one_does(dataset):
    ids = list(dataset)
    one = collect(dataset, 4, 5)
    first, second = collect(dataset, 4, 5, ids[::2]), collect(dataset, 4, 5, ids[1::2])
    first.merge(second)
    assert first.images == one.images == collect(dataset, 4, 5, ids[::-1]).images


def test_annotation_as_a_graph(dataset):
    gt = next(gt for gt, _ in dataset.values() if len(gt.triplets))
    metadata = get_psg_metadata(NAME)
    graph = graph_of_annotation(gt, Vocabulary.from_metadata(metadata))
    for n, obj in enumerate(graph.objects):
        assert (obj.mask_array() == (gt.label_map == n + 1)).all()
        assert obj.name == metadata.object_classes[gt.labels[n]] and obj.isthing == (gt.labels[n] < NUM_THINGS)
    assert [(r.subject, r.object, r.predicate_id) for r in graph.relations] == [tuple(t) for t in gt.triplets.tolist()]
