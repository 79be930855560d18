"""Hits and misses of single images: a worked case, and agreement with the metrics on random samples."""

from dataclasses import replace

import numpy as np
import pytest

from usg_psg.evaluation import GroundTruth, Prediction, SGDetMetrics
from usg_psg.evaluation.errors import ERROR_PROTOCOLS, triplet_errors
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.matching import NEVER
from usg_psg.masks import decode_masks

from .samples import NUM_PREDICATES, random_ground_truth, random_prediction

K = 7


def worked_case():
    """Two segments, two relations of the pair; the first mask is predicted twice, each time with one of them."""
    label_map = np.repeat([[1, 1, 2, 2]], 4, axis=0)
    gt = GroundTruth(np.array([0, 1]), np.array([[0, 1, 0], [0, 1, 1], [0, 1, 1]]), label_map)
    masks = np.stack([label_map == 1, label_map == 1, label_map == 2])
    triplets = np.array([[0, 2, 0], [1, 2, 1], [2, 0, 0]])
    return gt, Prediction(np.array([0, 0, 1]), triplets, masks)


def test_worked_case():
    gt, prediction = worked_case()
    match = ImageMatch(gt, prediction)
    single = triplet_errors(match, "single", 20)
    assert single.triplets.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert (decode_masks(single.masks) == prediction.masks[[0, 2]]).all()
    assert single.hits.tolist() == [True, False] and single.ranks.tolist() == [0, NEVER] and not single.near.any()
    assert single.recall == 0.5 and single.missed == 1
    openpsg = triplet_errors(match, "openpsg", 20)
    assert (decode_masks(openpsg.masks) == prediction.masks).all()
    assert openpsg.hits.tolist() == [True, True, False] and openpsg.recall == 1.0 and openpsg.missed == 0
    assert triplet_errors(match, "openpsg", 1).found.tolist() == [True, False]
    other = replace(prediction, triplets=np.array([[0, 2, 2], *prediction.triplets[1:].tolist()]))
    assert triplet_errors(ImageMatch(gt, other), "openpsg", 20).near.tolist() == [True, False, False]


@pytest.mark.parametrize("protocol", ERROR_PROTOCOLS)
def test_an_image_without_prediction_misses_everything(protocol):
    gt, _ = worked_case()
    empty = Prediction(np.zeros(0, int), np.zeros((0, 3), int), np.zeros((0, 4, 4), bool))
    for prediction in (None, empty):
        errors = triplet_errors(ImageMatch(gt, prediction), protocol, 20)
        assert errors.recall == 0 and errors.missed == 2 and errors.masks == []
        assert errors.triplets.shape == (0, 3) and len(errors.hits) == 0


def test_an_image_without_annotated_triplets_has_no_recall():
    gt, prediction = worked_case()
    gt = GroundTruth(gt.labels, np.zeros((0, 3), int), gt.label_map)
    errors = triplet_errors(ImageMatch(gt, prediction), "single", 20)
    assert np.isnan(errors.recall) and errors.missed == 0 and not errors.hits.any()


def test_another_protocol_is_refused():
    with pytest.raises(ValueError, match="single, openpsg"):
        triplet_errors(ImageMatch(*worked_case()), "usg_pooled", 20)


@pytest.mark.parametrize("protocol", ERROR_PROTOCOLS)
def test_recall_is_that_of_the_metrics(protocol):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        gt = random_ground_truth(rng)
        prediction = random_prediction(rng, gt)
        errors = triplet_errors(ImageMatch(gt, prediction), protocol, K)
        metrics = SGDetMetrics(NUM_PREDICATES, ks=(K,))
        metrics.update(gt, prediction)
        expected = metrics.compute().metrics[f"{protocol}/R@{K}"]
        hits += int(errors.hits.sum())
        if not np.isnan(expected):
            assert 100 * errors.recall == pytest.approx(expected)
        assert errors.hits.any() == errors.found.any() and len(errors.triplets) <= K
    assert hits > 30, "the samples are meant to have hits"
