"""Annotation and prediction of one image: what is sorted, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from usg_psg.evaluation import GroundTruth, Prediction, SGDetMetrics
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.matching import mask_overlap

MASKS = np.arange(3)[:, None, None] == np.arange(3)[None, :, None].repeat(4, 2)  # a row of pixels each
ROWS = np.array([[0, 1, 0], [1, 2, 1], [2, 0, 2]])


def make(**changes) -> Prediction:
    return Prediction(**{"labels": np.array([0, 1, 2]), "triplets": ROWS, "masks": MASKS, "image_id": "7", **changes})


def test_scores_are_sorted_with_their_triplets():
    made = make(triplet_scores=np.array([0.1, 0.9, 0.5]))
    assert made.triplets.tolist() == ROWS[[1, 2, 0]].tolist() and made.triplet_scores.tolist() == [0.9, 0.5, 0.1]
    again = replace(made, labels=np.array([2, 1, 0]))
    np.testing.assert_array_equal(again.triplets, made.triplets)


def test_scores_without_a_sign_are_sorted_too():
    made = make(triplet_scores=np.array([0, 2, 1], dtype=np.uint8), mask_scores=np.array([0, 2, 1], dtype=np.uint8))
    assert made.triplets.tolist() == ROWS[[1, 2, 0]].tolist()
    made = make(masks=np.ones((3, 2, 2), dtype=bool), mask_scores=np.array([0, 2, 1], dtype=np.uint8))
    assert made.ensure_map((2, 2))[1].tolist() == [1], "the mask with the largest score"


def test_a_prediction_is_compared_with_each_annotation():
    made = make()
    for row in range(3):
        label_map = np.zeros((3, 4), dtype=np.int64)
        label_map[row] = 1
        overlap = ImageMatch(GroundTruth(np.array([0]), np.zeros((0, 3), int), label_map), made).overlap
        assert overlap.intersection.ravel().tolist() == [4 * (n == row) for n in range(3)]


def test_an_overlap_with_another_annotation_is_refused():
    made = make(overlap=mask_overlap(MASKS, np.ones((3, 4), int), 1))
    gt = GroundTruth(np.array([0, 1]), ROWS[:1], np.ones((3, 4), int))
    with pytest.raises(ValueError, match=r"overlap: expected \(3, 2\), got \(3, 1\)"):
        _ = ImageMatch(gt, made).overlap


@pytest.mark.parametrize("name", ["triplet_scores", "mask_scores"])
@pytest.mark.parametrize("scores", [[0.5, 0.5], [0.5, np.nan, 0.1], [[0.5], [0.4], [0.3]], ["0.5", "0.4", "0.3"]])
def test_scores_that_do_not_fit_are_refused(name, scores):
    with pytest.raises(ValueError, match=f"image '7': {name}: expected 3 numbers, got"):
        make(**{name: np.array(scores)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_crowd": [True]}, r"is_crowd: expected 2 flags, got shape \(1,\)"),
        ({"label_map": np.full((3, 4), 3)}, "label_map: expected 0 to 2, got 3 to 3"),
        ({"label_map": np.full((3, 4), -1)}, "label_map: expected 0 to 2, got -1 to -1"),
        ({"label_map": np.ones((3, 4))}, "label_map: expected integers"),
        ({"labels": [], "triplets": []}, "label_map: expected 0 to 0, got 1 to 1"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(changes, message):
    given = {"labels": np.array([0, 1]), "triplets": ROWS[:1], "label_map": np.ones((3, 4), int)}
    with pytest.raises(ValueError, match=f"image '7': {message}"):
        GroundTruth(**{**given, "image_id": "7", **changes})


@pytest.mark.parametrize("ranks", [(), (-1,), (20, 0)])
def test_metrics_at_no_rank_are_refused(ranks):
    with pytest.raises(ValueError, match="ks: expected ranks from 1"):
        SGDetMetrics(5, ks=ranks)
    with pytest.raises(ValueError, match="proposal_ks: expected ranks from 1"):
        SGDetMetrics(5, proposal_ks=ranks)
