"""Cases small enough to work out by hand; docs/evaluation.md explains some of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from usg_psg.evaluation import GroundTruth, Prediction, SGDetMetrics
from usg_psg.evaluation.report import format_main, format_summary

from .samples import training_triplets_of

P = 3  # predicates


def strips(*lengths: int) -> np.ndarray:
    """Map of one row: segment 1 owns the first pixels, segment 2 the next."""
    return np.repeat(np.arange(1, len(lengths) + 1), lengths)[None]


def masks_of(label_map: np.ndarray) -> np.ndarray:
    return label_map[None] == np.arange(1, label_map.max() + 1)[:, None, None]


# A person (class 0) of ten pixels beside a horse (class 1) of ten.
MAP = strips(10, 10)
MASKS = masks_of(MAP)


def gt_of(*triplets: tuple[int, int, int]) -> GroundTruth:
    return GroundTruth(np.array([0, 1]), np.array(triplets).reshape(-1, 3), MAP)


def score(*images: tuple[GroundTruth, Prediction], ks: tuple[int, ...] = (1, 2, 20)) -> dict[str, float]:
    metrics = SGDetMetrics(P, ks=ks)
    for gt, prediction in images:
        metrics.update(gt, prediction)
    return metrics.compute().metrics


def test_one_right_one_wrong():
    prediction = Prediction(np.array([0, 1]), np.array([[1, 0, 0], [0, 1, 2]]), MASKS)
    metrics = score((gt_of((0, 1, 2)), prediction))
    for protocol in ("single", "openpsg", "openpsg_strict", "usg_pooled"):
        assert metrics[f"{protocol}/R@1"] == 0.0
        assert metrics[f"{protocol}/R@2"] == 100.0
    assert metrics["single/mR@2"] == 100.0  # over the one predicate that occurs
    assert metrics["openpsg/mR@2"] == pytest.approx(100.0 / 3)  # absent predicates count as 0


def test_iou_of_exactly_one_half_counts_for_openpsg_and_not_for_single():
    half = np.zeros((2, 1, 20), dtype=bool)
    half[0, 0, :5], half[1, 0, 10:] = True, True
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), half)
    metrics = score((gt_of((0, 1, 2)), prediction))
    assert metrics["openpsg/R@20"] == 100.0
    assert metrics["single/R@20"] == 0.0
    half[0, 0, :6] = True
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), half)
    assert score((gt_of((0, 1, 2)), prediction))["single/R@20"] == 100.0


def test_two_masks_of_one_object_give_openpsg_two_predicates():
    """MultiMPO: the person is predicted twice, each copy with its own predicate for the same pair."""
    masks = MASKS[[0, 0, 1]]
    prediction = Prediction(np.array([0, 0, 1]), np.array([[0, 2, 0], [1, 2, 1]]), masks)
    metrics = score((gt_of((0, 1, 0), (0, 1, 1)), prediction))
    assert metrics["openpsg/R@20"] == 100.0
    assert metrics["single/R@20"] == 50.0
    assert metrics["single/NgR@20"] == 100.0


def test_the_example_of_the_documentation():
    """docs/evaluation.md: two masks of one person on the first image, nothing predicted on the second."""
    on, riding = 3, 20
    gt = GroundTruth(np.array([0, 1]), np.array([[0, 1, riding], [0, 1, on]]), MAP)
    prediction = Prediction(np.array([0, 0, 1]), np.array([[0, 2, riding], [1, 2, on]]), MASKS[[0, 0, 1]])
    metrics = SGDetMetrics(56)
    metrics.update(gt, prediction)
    alone = metrics.compute().metrics
    assert alone["openpsg_rows/R@20"] == 100.0
    assert (alone["openpsg/R@20"], alone["single/R@20"], alone["single/NgR@20"]) == (100.0, 50.0, 100.0)
    assert alone["openpsg/PR@20"] == alone["single/PR@20"] == 100.0
    metrics.update(GroundTruth(np.array([0, 1]), np.array([[0, 1, on]]), MAP), empty_prediction())
    both = metrics.compute().metrics
    expected = {
        "single": (25.0, 50.0),
        "openpsg": (100.0, 200 / 56),
        "openpsg_rows": (100.0, 200 / 56),
        "openpsg_strict": (50.0, 150 / 56),
        "usg_pooled": (200 / 3, 75.0),
    }
    for protocol, values in expected.items():
        assert (both[f"{protocol}/R@20"], both[f"{protocol}/mR@20"]) == pytest.approx(values), protocol


def test_two_predicates_of_one_pair():
    """The graph constraint keeps the first; without it both count, each taking a rank."""
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 1], [0, 1, 0]]), MASKS)
    metrics = score((gt_of((0, 1, 0), (0, 1, 1)), prediction))
    for protocol in ("single", "openpsg", "usg_pooled"):
        assert metrics[f"{protocol}/R@20"] == 50.0
        assert metrics[f"{protocol}/NgR@1"] == 50.0
        assert metrics[f"{protocol}/NgR@2"] == 100.0


def test_annotated_triplet_twice_counts_once_but_for_the_pooled_rules():
    gt = gt_of((0, 1, 0), (0, 1, 0), (1, 0, 1))
    metrics = SGDetMetrics(P, ks=(20,))
    metrics.update(gt, Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS))
    results = metrics.compute()
    assert results.counts["gt_triplets"] == 2
    assert results.counts["gt_duplicate_triplets"] == 1
    assert results.metrics["openpsg/R@20"] == results.metrics["single/R@20"] == 50.0
    assert results.metrics["usg_pooled/R@20"] == pytest.approx(100.0 / 3)  # one prediction finds one of the two


def test_predicted_triplet_twice_takes_one_rank():
    prediction = Prediction(np.array([0, 1]), np.array([[1, 0, 0], [1, 0, 0], [0, 1, 2]]), MASKS)
    metrics = score((gt_of((0, 1, 2)), prediction))
    assert metrics["openpsg/R@2"] == metrics["openpsg/NgR@2"] == metrics["single/R@2"] == 100.0


def test_openpsg_rows_counts_every_row():
    """As OpenPSG's evaluator: a pair may come with several predicates, and a repeated row takes a rank."""
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 1], [0, 1, 1], [0, 1, 0]]), MASKS)
    metrics = score((gt_of((0, 1, 0), (0, 1, 1)), prediction))
    assert [metrics[f"openpsg_rows/R@{k}"] for k in (1, 2, 20)] == [50.0, 50.0, 100.0]
    assert [metrics[f"openpsg/R@{k}"] for k in (1, 2, 20)] == [50.0, 50.0, 50.0]
    assert metrics["openpsg_rows/mR@20"] == pytest.approx(200 / 3)  # absent predicates count as 0
    skipped = score((gt_of((0, 1, 0), (0, 1, 1)), prediction), (gt_of((0, 1, 2)), empty_prediction()))
    assert skipped["openpsg_rows/R@20"] == 100.0
    assert not [key for key in metrics if key.startswith("openpsg_rows/Ng")], "OpenPSG has none for masks"


def test_pair_recall_of_openpsg_rows_counts_triplets():
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS)
    metrics = score((gt_of((0, 1, 1), (0, 1, 2), (1, 0, 0)), prediction))
    assert metrics["openpsg/PR@20"] == 50.0  # one of two pairs
    assert metrics["openpsg_rows/PR@20"] == pytest.approx(200 / 3)  # two of three triplets, as Pair-Net counts


def test_a_pair_whose_ends_became_one_segment_takes_a_rank():
    """The first row relates two masks of the person, which `single` merges."""
    prediction = Prediction(np.array([0, 1, 0]), np.array([[0, 2, 0], [0, 1, 2]]), MASKS[[0, 1, 0]])
    metrics = score((gt_of((0, 1, 2)), prediction))
    for name in ("R", "NgR", "PR"):
        assert (metrics[f"single/{name}@1"], metrics[f"single/{name}@2"]) == (0.0, 100.0)


def test_f_is_the_harmonic_mean_of_recall_and_mean_recall():
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 0], [1, 0, 0]]), MASKS)
    metrics = score((gt_of((0, 1, 0), (1, 0, 0), (1, 0, 1)), prediction), ks=(1, 20))
    recall, mean_recall = 200 / 3, 50.0
    assert metrics["single/F@20"] == pytest.approx(2 / (1 / recall + 1 / mean_recall))
    nothing = score((gt_of((0, 1, 0)), Prediction(np.array([0, 1]), np.array([[0, 1, 1]]), MASKS)))
    assert nothing["single/F@20"] == 0.0
    assert math.isnan(score((gt_of(), prediction))["single/F@20"])


def test_zero_shot_recall_counts_triplets_of_types_that_training_lacks():
    seen = gt_of((0, 1, 0), (0, 1, 1))
    training = training_triplets_of([(seen.labels, seen.triplets)], 2, P)
    metrics = SGDetMetrics(P, ks=(1, 2), training=training)
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 0], [1, 0, 2]]), MASKS)
    metrics.update(gt_of((0, 1, 0), (1, 0, 2), (1, 0, 1)), prediction)  # the last two are new
    metrics.update(seen, prediction)  # enters no zero-shot mean
    metrics.update_missing(np.array([[1, 0, 2]]), np.array([0, 1]), np.zeros(2, dtype=bool))
    results = metrics.compute()
    assert results.counts["gt_zero_shot_triplets"] == 3
    assert (results.metrics["single/zR@1"], results.metrics["single/zR@2"]) == (0.0, 25.0)
    assert results.metrics["openpsg/zR@2"] == results.metrics["openpsg_rows/zR@2"] == 50.0  # without the missing image
    assert results.metrics["usg_pooled/zR@2"] == pytest.approx(100 / 3)
    assert "single/zR@1" not in SGDetMetrics(P).compute().metrics


def test_panoptic_quality_of_images_with_relations():
    metrics = SGDetMetrics(P, is_thing=[True, False])
    right = Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), MASKS)
    metrics.update(gt_of((0, 1, 2)), right)
    metrics.update(gt_of(), Prediction(np.array([1, 0]), np.zeros((0, 3)), MASKS))
    panoptic = metrics.compute().panoptic
    assert panoptic["PQ"] == pytest.approx(50.0) and panoptic["PQ_rel"] == panoptic["PQ_th_rel"] == 100.0


def test_ties_keep_the_given_order_and_scores_sort():
    rows = np.array([[1, 0, 0], [0, 1, 2]])
    gt = gt_of((0, 1, 2))
    tie = Prediction(np.array([0, 1]), rows, MASKS, triplet_scores=np.array([0.5, 0.5]))
    assert score((gt, tie))["openpsg/R@1"] == 0.0
    better = Prediction(np.array([0, 1]), rows, MASKS, triplet_scores=np.array([0.5, 0.6]))
    assert score((gt, better))["openpsg/R@1"] == 100.0


def empty_prediction() -> Prediction:
    masks, nothing = np.zeros((0, 1, 20), dtype=bool), np.zeros((0, 3), dtype=int)
    return Prediction(np.zeros(0, dtype=int), nothing, masks, pairs=nothing[:, :2])


def test_image_without_prediction():
    good = (gt_of((0, 1, 2)), Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), MASKS))
    metrics = score(good, (gt_of((0, 1, 2)), empty_prediction()))
    assert metrics["openpsg/R@20"] == metrics["openpsg/mR@20"] * P == pytest.approx(100.0)  # skipped
    assert metrics["openpsg_strict/R@20"] == metrics["single/R@20"] == metrics["usg_pooled/R@20"] == 50.0
    assert metrics["single/mR@20"] == 50.0


def test_missing_image_counts_like_an_empty_prediction():
    pairs = np.array([[0, 1]])
    good = (gt_of((0, 1, 2)), Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), MASKS, pairs=pairs))
    seen, missing = SGDetMetrics(P, is_thing=[True, False]), SGDetMetrics(P, is_thing=[True, False])
    for metrics in (seen, missing):
        metrics.update(*good)
    seen.update(gt_of((1, 0, 1)), empty_prediction())
    missing.update_missing(np.array([[1, 0, 1]]), np.array([0, 1]), np.zeros(2, dtype=bool))
    a, b = seen.compute(), missing.compute()
    np.testing.assert_equal(a.metrics, b.metrics)
    assert a.metrics["oracle/pairs@20"] == 50.0
    assert a.counts == {**b.counts, "images_with_proposals": 2}
    assert a.panoptic == b.panoptic
    assert a.panoptic["PQ"] == pytest.approx(100 * 2 / 3)  # one of two found in each class: 1 / (1 + 1/2)


def test_image_without_annotated_relations_is_in_no_recall():
    good = (gt_of((0, 1, 2)), Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), MASKS))
    nothing = (gt_of(), Prediction(np.array([0, 1]), np.array([[1, 0, 0]]), MASKS))
    alone, both = SGDetMetrics(P), SGDetMetrics(P)
    alone.update(*good)
    both.update(*good)
    both.update(*nothing)
    assert_same_metrics(alone, both)
    assert both.compute().counts["images"] == 2
    assert both.compute().counts["images_with_relations"] == 1
    only = SGDetMetrics(P)
    only.update(*nothing)
    assert math.isnan(only.compute().metrics["openpsg_strict/R@20"])


def assert_same_metrics(a: SGDetMetrics, b: SGDetMetrics) -> None:
    np.testing.assert_equal(a.compute().metrics, b.compute().metrics)


def test_pair_recall_leaves_predicates_out():
    prediction = Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS)
    metrics = score((gt_of((0, 1, 1), (0, 1, 2), (1, 0, 0)), prediction))
    for protocol in ("single", "openpsg", "usg_pooled"):
        assert metrics[f"{protocol}/R@20"] == 0.0
        assert metrics[f"{protocol}/PR@20"] == 50.0


def test_wrong_label_is_no_hit_and_only_counts_class_agnostically():
    prediction = Prediction(np.array([1, 1]), np.array([[0, 1, 2]]), MASKS, pairs=np.array([[0, 1]]))
    metrics = score((gt_of((0, 1, 2)), prediction))
    assert metrics["openpsg/R@20"] == metrics["single/R@20"] == 0.0
    assert metrics["oracle/pairs@20"] == 0.0
    assert metrics["oracle/pairs_any_class@20"] == 100.0
    assert metrics["oracle/objects"] == 50.0 and metrics["oracle/objects_any_class"] == 100.0
    assert metrics["oracle/pairs@all"] == 0.0


@pytest.mark.parametrize(
    ("labels", "triplets", "shift", "cause"),
    [
        ([0, 1], [[0, 1, 2]], 0, None),
        ([0, 1], [[0, 1, 2]], 10, "no predicted mask fits an annotated one"),
        ([1, 0], [[0, 1, 2]], 0, "masks fit 100.0 % of the annotated ones, never with their class"),
        ([0, 1], np.zeros((0, 3)), 0, "100.0 % of the objects are found, but no relation is predicted"),
        ([0, 1], [[1, 0, 2]], 0, "100.0 % of the objects are found, but no related pair"),
        ([0, 1], [[0, 1, 1]], 0, "100.0 % of the related pairs are found, but never their predicate"),
    ],
)
def test_zero_recall_tells_where_the_way_to_a_hit_breaks_off(labels, triplets, shift, cause):
    metrics = SGDetMetrics(P, is_thing=[True, True])
    masks = np.roll(MASKS, shift // 2, axis=2)
    metrics.update(gt_of((0, 1, 2)), Prediction(np.array(labels), np.array(triplets), masks))
    results = metrics.compute()
    line = f"single/R@100 is 0: {cause}"
    for text in (format_main(results, "sgdet", "two"), format_summary(results)):
        assert ("is 0:" in text) == (cause is not None)
        assert cause is None or line in text


def test_oracle_recall_counts_the_first_k_pairs_of_all_images_together():
    gt = gt_of((0, 1, 0), (1, 0, 0))
    first = Prediction(np.array([0, 1]), np.zeros((0, 3)), MASKS, pairs=np.array([[0, 1], [1, 0]]))
    second = Prediction(np.array([0, 1]), np.zeros((0, 3)), MASKS, pairs=np.array([[0, 1]]))
    metrics = SGDetMetrics(P, proposal_ks=(1, 2))
    metrics.update(gt, first)
    metrics.update(gt_of((0, 1, 0)), second)
    values = metrics.compute().metrics
    assert values["oracle/pairs@1"] == pytest.approx(100 * 2 / 3)
    assert values["oracle/pairs@2"] == 100.0


def test_mean_recall_averages_images_first_then_predicates():
    """Predicate 0: recalls 1/2 and 1 on two images; predicate 1: 0 on one. Pooled: 2/3 and 0."""
    label_map = strips(5, 5, 5, 5)
    labels = np.array([0, 1, 2, 3])
    first = GroundTruth(labels, np.array([[0, 1, 0], [2, 3, 0], [1, 0, 1]]), label_map)
    second = GroundTruth(labels, np.array([[0, 1, 0]]), label_map)
    prediction = Prediction(labels, np.array([[0, 1, 0]]), masks_of(label_map))
    metrics = score((first, prediction), (second, prediction))
    assert metrics["openpsg/R@20"] == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert metrics["single/mR@20"] == pytest.approx(100 * (0.75 + 0) / 2)
    assert metrics["openpsg/mR@20"] == pytest.approx(100 * (0.75 + 0 + 0) / 3)
    assert metrics["usg_pooled/R@20"] == pytest.approx(100 * 2 / 4)
    assert metrics["usg_pooled/mR@20"] == pytest.approx(100 * (2 / 3) / 2)


def test_single_merges_duplicate_masks_and_keeps_the_best_row():
    """The rows of both copies become one segment pair: predicate 1 comes first, so predicate 0 is out."""
    masks = MASKS[[0, 1, 0]]
    prediction = Prediction(np.array([0, 1, 0]), np.array([[2, 1, 1], [0, 1, 0]]), masks)
    metrics = score((gt_of((0, 1, 0)), prediction))
    assert metrics["single/R@20"] == 0.0
    assert metrics["openpsg/R@20"] == 100.0


def test_head_body_tail_are_thirds_by_training_frequency():
    gt = gt_of((0, 1, 0), (1, 0, 2))
    metrics = SGDetMetrics(P, ks=(20,), predicate_frequency=np.array([5, 100, 1]))
    metrics.update(gt, Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS))
    results = metrics.compute()
    assert {k: v.tolist() for k, v in results.predicate_groups.items()} == {"head": [1], "body": [0], "tail": [2]}
    assert math.isnan(results.metrics["single/mR@20/head"])
    assert results.metrics["openpsg/mR@20/head"] == 0.0
    assert results.metrics["single/mR@20/body"] == 100.0
    assert results.metrics["single/mR@20/tail"] == 0.0


def test_confusion_holds_the_predicted_predicate_of_found_pairs():
    metrics = SGDetMetrics(P)
    metrics.update(gt_of((0, 1, 0), (1, 0, 2)), Prediction(np.array([0, 1]), np.array([[0, 1, 1], [0, 1, 0]]), MASKS))
    expected = np.zeros((P, P + 1), dtype=int)
    expected[0, 1] = 1  # the best row of the pair says 1
    expected[2, P] = 1  # the pair was not found
    np.testing.assert_array_equal(metrics.compute().confusion, expected)


def test_crowds_are_segments_for_relations_and_ignored_by_panoptic_quality():
    gt = GroundTruth(np.array([0, 1]), np.array([[0, 1, 2]]), MAP, is_crowd=np.array([False, True]))
    metrics = SGDetMetrics(P, is_thing=[True, True])
    metrics.update(gt, Prediction(np.array([0, 1]), np.array([[0, 1, 2]]), MASKS))
    results = metrics.compute()
    assert results.metrics["openpsg/R@20"] == results.metrics["single/R@20"] == 100.0
    assert results.panoptic["PQ"] == 100.0
    assert metrics.panoptic[""].counts.tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triplets": np.array([[0, 2, 0]])}, r"image '7': triplets: expected subject and object from 0 to 1"),
        ({"triplets": np.array([[0, 1]])}, r"image '7': triplets: expected integers of shape \(rows, 3\)"),
        ({"triplets": np.array([[0.0, 1.0, 0.5]])}, r"image '7': triplets: expected integers"),
        ({"masks": MASKS[:1]}, r"image '7': masks: expected 2 as there are labels, got 1"),
        ({"triplet_scores": np.array([np.nan])}, r"image '7': triplet_scores: .* with NaN"),
        ({"segment_map": MAP}, r"image '7': segment_map, segment_labels and mask_segment belong together"),
        ({"labels": np.array([0, -1])}, r"image '7': labels: expected a vector of class indices from 0"),
    ],
)
def test_bad_predictions_are_refused(change: dict, message: str):
    arguments = {"labels": np.array([0, 1]), "triplets": np.array([[0, 1, 0]]), "masks": MASKS, "image_id": "7"}
    with pytest.raises(ValueError, match=message):
        Prediction(**{**arguments, **change})


def test_bad_values_of_an_image_are_refused():
    good = Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS)
    metrics = SGDetMetrics(P, is_thing=[True, True])
    with pytest.raises(ValueError, match=r"image '7': annotated predicate, counted from 0: expected 0 to 2, got 3"):
        metrics.update(GroundTruth(np.array([0, 1]), np.array([[0, 1, 3]]), MAP, image_id="7"), good)
    with pytest.raises(ValueError, match="predicted class, counted from 0: expected 0 to 1, got 4"):
        metrics.update(gt_of((0, 1, 0)), Prediction(np.array([0, 4]), np.array([[0, 1, 0]]), MASKS))
    with pytest.raises(ValueError, match=r"expected height and width \(1, 20\), got \(1, 19\)"):
        metrics.update(gt_of((0, 1, 0)), Prediction(np.array([0, 1]), np.array([[0, 1, 0]]), MASKS[..., 1:]))
