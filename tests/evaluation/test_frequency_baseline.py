"""The frequency baseline and its counts: worked cases, and agreement with a slow loop."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from usg_psg.evaluation import GroundTruth, Prediction, SGDetMetrics, TrainingTriplets

from .samples import (
    NUM_CLASSES,
    NUM_PREDICATES,
    perfect_prediction,
    random_ground_truth,
    random_training,
    training_triplets_of,
)

PERSON, HORSE, GRASS = range(3)
ON, RIDING, BESIDE = range(3)


def training() -> TrainingTriplets:
    """Two images: two persons ride, one horse is beside a person, grass takes part in nothing."""
    first = (np.array([PERSON, PERSON, HORSE, GRASS]), np.array([[0, 2, RIDING], [1, 2, RIDING], [1, 2, RIDING]]))
    second = (np.array([PERSON, HORSE]), np.array([[0, 1, ON], [1, 0, BESIDE], [1, 1, BESIDE]]))
    return training_triplets_of([first, second], 3, 3)


def test_duplicates_count_once_and_self_relations_do_not_count():
    counts = training()
    assert counts.relations[PERSON, HORSE].tolist() == [1, 2, 0]
    assert counts.relations[HORSE].sum(axis=1).tolist() == [1, 0, 0]
    assert counts.pairs.tolist() == [[2, 3, 2], [3, 0, 1], [2, 1, 0]]
    assert counts.predicates.tolist() == [1, 2, 1] and counts.predicates.dtype == np.int64
    triplets = np.array([[0, 1, RIDING], [0, 1, BESIDE], [1, 0, ON]])
    assert counts.unseen(np.array([PERSON, HORSE]), triplets).tolist() == [False, True, True]


def test_ranking_by_share_of_pairs_then_pairs_never_related():
    constrained, rows = training().rank(np.array([PERSON, HORSE, GRASS]))
    # riding: 2 of 3 pairs and one more, on: 1 of 3 + 1, beside: 1 of 3 + 1. A tie of on and beside: the first pair.
    assert rows[:3].tolist() == [[0, 1, RIDING], [0, 1, ON], [1, 0, BESIDE]]
    # Pairs of classes without relation: in order, with the most frequent predicate.
    assert rows[3:].tolist() == [[0, 2, RIDING], [1, 2, RIDING], [2, 0, RIDING], [2, 1, RIDING]]
    assert constrained.tolist() == rows[[0, 2, 3, 4, 5, 6]].tolist()


def test_scores_of_objects_weigh():
    two_persons = np.array([PERSON, HORSE, PERSON])
    assert training().rank(two_persons, np.array([0.4, 1.0, 0.9]))[0][0].tolist() == [2, 1, RIDING]
    # Never related pairs stay last, however sure the objects are.
    rows = training().rank(np.array([PERSON, HORSE, GRASS]), np.array([0.01, 0.5, 1.0]))[0]
    assert rows[:2, :2].tolist() == [[0, 1], [1, 0]] and rows[2].tolist() == [1, 2, RIDING]


def test_equal_shares_take_the_predicate_that_is_more_frequent_over_all():
    image = (np.array([0, 1, 2]), np.array([[0, 1, 0], [0, 1, 2], [1, 2, 2], [0, 2, 1]]))
    assert training_triplets_of([image], 3, 3).rank(np.array([0, 1]))[1].tolist()[:2] == [[0, 1, 2], [0, 1, 0]]


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts, labels = random_training(rng), rng.integers(0, NUM_CLASSES, int(rng.integers(0, 6)))
        scores = rng.random(len(labels))
        overall = counts.relations.sum(axis=(0, 1))
        ranked = []
        for s, subject in enumerate(labels):
            for o, object_ in enumerate(labels):
                found = np.flatnonzero(counts.relations[subject, object_])
                for p in [] if s == o else found if len(found) else [overall.argmax()]:
                    share = counts.relations[subject, object_, p] / (counts.pairs[subject, object_] + 1)
                    key = (not len(found), -scores[s] * scores[o] * (share or 1), s, o, -overall[p], p)
                    ranked.append((key, [s, o, int(p)]))
        rows = [row for _, row in sorted(ranked, key=lambda x: x[0])]
        constrained, unconstrained = counts.rank(labels, scores)
        assert unconstrained.tolist() == rows
        assert constrained.tolist() == [r for n, r in enumerate(rows) if r[:2] not in [x[:2] for x in rows[:n]]]


def test_the_baseline_is_scored_on_the_predicted_objects_whatever_was_predicted_for_them():
    rng = np.random.default_rng(1)
    counts = random_training(rng)
    with_baseline = SGDetMetrics(NUM_PREDICATES, [True] * NUM_CLASSES, training=counts, baseline=True)
    by_hand = SGDetMetrics(NUM_PREDICATES, [True] * NUM_CLASSES, training=counts)
    for _ in range(5):
        gt = random_ground_truth(rng)
        prediction = perfect_prediction(gt)
        prediction.triplets = prediction.triplets[:1]
        with_baseline.update(gt, prediction)
        triplets, triplets_ng = counts.rank(gt.labels)
        by_hand.update(gt, Prediction(gt.labels, triplets, prediction.masks, triplets_ng=triplets_ng))
    found, expected = with_baseline.compute().metrics, by_hand.compute().metrics
    recalls = {key: value for key, value in expected.items() if not key.startswith("oracle")}
    assert len(recalls) > 80 and 0 < recalls["single/R@10"] < 100
    np.testing.assert_equal({key: found[f"frequency/{key}"] for key in recalls}, recalls)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="baseline: needs training"):
        SGDetMetrics(3, baseline=True)
    with pytest.raises(ValueError, match="training: expected relations of 4 classes and 3 predicates, got 3 and 3"):
        SGDetMetrics(3, [True] * 4, training=training())
    one = SGDetMetrics(3, training=training())
    gt = GroundTruth(np.array([0, 3]), np.array([[0, 1, 0]]), np.ones((1, 1), int), image_id="7")
    with pytest.raises(ValueError, match="image '7': annotated class, counted from 0: expected 0 to 2, got 3"):
        one.update(gt, Prediction.nothing(gt))


def test_a_copy_from_another_process_only_merges():
    """It comes without the training data, so it cannot tell which triplets are new."""
    metrics = pickle.loads(pickle.dumps(SGDetMetrics(3, training=training())))
    gt = GroundTruth(np.array([0, 1]), np.array([[0, 1, 0]]), np.array([[1, 2]]))
    with pytest.raises(ValueError, match="unseen: expected it exactly for zero-shot recall"):
        metrics.update(gt, perfect_prediction(gt))
