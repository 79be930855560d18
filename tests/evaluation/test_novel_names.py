"""Recall and panoptic quality of names that training lacked, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from usg_psg.evaluation import GroundTruth, NovelNames, Prediction, SGDetMetrics
from usg_psg.evaluation.report import format_summary
from usg_psg.vocabulary import Vocabulary

PERSON, HORSE, ZEBRA = range(3)
ON, BESIDE, RIDING = range(3)
NAMES = Vocabulary(("person", "horse", "zebra"), (), ("on", "beside", "riding"))
TRAINED = Vocabulary(("horse", "person"), (), ("beside", "on"))  # neither zebra nor riding, in another order
MAP = np.repeat([1, 2, 3], 10)[None]
MASKS = MAP[None] == np.arange(1, 4)[:, None, None]


def score() -> SGDetMetrics:
    metrics = SGDetMetrics(3, [True] * 3, ks=(1, 2, 20), novel=NovelNames.of(TRAINED, NAMES))
    classes = np.array([PERSON, HORSE, ZEBRA])
    # All three parts; of a person and a horse, one predicate counts, so the base triplet is never found.
    gt = GroundTruth(classes, np.array([[0, 1, RIDING], [0, 1, ON], [0, 2, BESIDE]]), MAP)
    metrics.update(gt, Prediction(classes, np.array([[0, 1, RIDING], [0, 2, BESIDE]]), MASKS))
    # Base alone; the zebra is taken for a horse.
    gt = GroundTruth(classes, np.array([[0, 1, ON], [1, 0, BESIDE]]), MAP)
    metrics.update(gt, Prediction(np.array([PERSON, HORSE, HORSE]), np.array([[0, 1, ON]]), MASKS))
    # A novel predicate between novel classes belongs to both parts; nothing is predicted.
    metrics.update_missing(np.array([[0, 1, RIDING]]), np.array([ZEBRA, ZEBRA]), np.zeros(2, bool))
    return metrics


def test_parts_of_recall():
    metrics = score().compute().metrics
    assert metrics["single/R@1/base"] == metrics["single/R@20/base"] == 25.0  # 0 of 1, 1 of 2
    assert metrics["single/mR@20/base"] == 25.0  # on: 0 and 1; beside: 0
    assert (metrics["single/R@1/novel_class"], metrics["single/R@2/novel_class"]) == (0.0, 50.0)
    assert metrics["single/mR@2/novel_class"] == 50.0  # beside: 1; riding: 0
    assert metrics["single/R@1/novel_predicate"] == metrics["single/mR@1/novel_predicate"] == 50.0
    # Images without prediction are left out; absent predicates do not count here.
    assert metrics["openpsg/mR@20/novel_predicate"] == 100.0
    assert metrics["usg_pooled/R@20/base"] == pytest.approx(100 / 3)
    assert metrics["single/R@20"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_parts_of_panoptic_quality_and_counts():
    results = score().compute()
    zebra, horse = 1 / (1 + 3 / 2), 2 / (2 + 1 / 2)  # found / (found + half of false and missed)
    assert results.panoptic["PQ_novel"] == pytest.approx(100 * zebra)
    assert results.panoptic["PQ_base"] == pytest.approx(100 * (1 + horse) / 2)
    assert results.panoptic["RQ_novel_rel"] == pytest.approx(100 * zebra)
    assert [results.counts[f"gt_{part}_triplets"] for part in ("base", "novel_class", "novel_predicate")] == [3, 2, 2]
    assert "novel_class, 2 triplets: single R@1 0.00" in format_summary(results)


def test_processes_add_up_and_nothing_is_told_apart_where_training_had_every_name():
    total = score()
    total.merge(score())
    assert total.compute().metrics == pytest.approx(score().compute().metrics, nan_ok=True)
    assert NovelNames.of(NAMES, TRAINED) is None
    plain = SGDetMetrics(3, [True] * 3).compute()
    assert not any("novel" in key for key in [*plain.metrics, *plain.panoptic, *plain.counts])
    with pytest.raises(ValueError, match="other: expected counts with the same"):
        SGDetMetrics(3, [True] * 3).merge(total)
