"""Properties that hold for any sample, and agreement with slow loops and with the package sgbench."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usg_psg.evaluation import PROTOCOLS, Prediction, SGDetMetrics
from usg_psg.evaluation.inputs import flatten_masks
from usg_psg.evaluation.matching import (
    mask_overlap,
    match_any,
    match_one_to_one,
)
from usg_psg.masks import decode_masks, encode_masks, label_map_from_masks

from .samples import (
    NUM_CLASSES,
    NUM_PREDICATES,
    loop_iou,
    loop_recall,
    loop_single_recall,
    perfect_prediction,
    random_ground_truth,
    random_map,
    random_prediction,
    random_training,
)

KS = (1, 2, 5, 10)
NAMES = ("R", "mR", "NgR", "NgmR", "PR")
seeds = st.integers(0, 2**32 - 1)
bounded = settings(max_examples=40)


def new_metrics(ks: tuple[int, ...] = KS, **options) -> SGDetMetrics:
    return SGDetMetrics(NUM_PREDICATES, [True] * NUM_CLASSES, ks=ks, proposal_ks=KS, **options)


def evaluate(images: list, ks: tuple[int, ...] = KS, **options) -> SGDetMetrics:
    metrics = new_metrics(ks, **options)
    for gt, prediction in images:
        metrics.update(gt, prediction)
    return metrics


def samples(seed: int, count: int = 4) -> list:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        gt = random_ground_truth(rng)
        images.append((gt, random_prediction(rng, gt)))
    return images


def keys(results: dict[str, float]) -> list[str]:
    return [
        f"{p.name}/{name}@{k}" for p in PROTOCOLS for name in NAMES for k in KS if f"{p.name}/{name}@{k}" in results
    ]


@bounded
@given(seeds)
def test_recall_grows_with_k_and_is_a_percentage(seed: int):
    metrics = evaluate(samples(seed)).compute().metrics
    for protocol in PROTOCOLS:
        for name in NAMES:
            values = [metrics.get(f"{protocol.name}/{name}@{k}", np.nan) for k in KS]
            if not np.isnan(values).any():
                assert values == sorted(values)
                assert 0.0 <= values[0] and values[-1] <= 100.0 + 1e-9


@settings(max_examples=12)
@given(seeds)
def test_no_order_of_images_and_no_sharding_changes_a_bit(seed: int):
    images = samples(seed, 7)
    rng = np.random.default_rng(seed)
    options = {"training": random_training(rng), "baseline": True}
    expected = evaluate(images, **options)
    shards = np.array_split(rng.permutation(len(images)), 3)
    merged = new_metrics(**options)
    for shard in shards:
        merged.merge(pickle.loads(pickle.dumps(evaluate([images[i] for i in shard], **options))))
    a, b = expected.compute(), merged.compute()
    np.testing.assert_equal(a.metrics, b.metrics)  # exactly, NaN equal to NaN
    np.testing.assert_equal(a.panoptic, b.panoptic)
    np.testing.assert_array_equal(a.confusion, b.confusion)
    assert a.counts == b.counts
    assert "frequency/openpsg_rows/zR@5" in a.metrics


@bounded
@given(seeds)
def test_a_wrong_triplet_at_the_end_never_raises_a_metric(seed: int):
    images = samples(seed)
    rng = np.random.default_rng(seed)
    longer = []
    for gt, prediction in images:
        wrong = NUM_PREDICATES - 1
        kept = gt.triplets[gt.triplets[:, 2] != wrong]
        gt = type(gt)(gt.labels, kept if len(kept) else np.array([[0, 1, 0]]), gt.label_map)
        ends = rng.permutation(len(prediction.labels))[:2]
        rows = np.concatenate([prediction.triplets, [[*ends, wrong]]])
        longer.append((gt, prediction, Prediction(prediction.labels, rows, prediction.masks)))
    before = evaluate([(gt, shorter) for gt, shorter, _ in longer if len(shorter.triplets)])
    after = evaluate([(gt, extended) for gt, shorter, extended in longer if len(shorter.triplets)])
    a, b = before.compute().metrics, after.compute().metrics
    for key in keys(a):
        if "/PR" not in key:  # pair recall does not read predicates: the row may be right there
            assert b[key] <= a[key] + 1e-12 or np.isnan(a[key]), key


@bounded
@given(seeds)
def test_perfect_predictions_give_100(seed: int):
    rng = np.random.default_rng(seed)
    images = [(gt, perfect_prediction(gt)) for gt in (random_ground_truth(rng) for _ in range(4))]
    results = evaluate(images, ks=(20,)).compute()
    present = results.predicate_counts > 0
    for protocol in PROTOCOLS:
        share = present.mean() if protocol.absent_as_zero else 1.0
        if protocol.name != "usg_pooled":  # duplicates in the annotation have one prediction each there
            ng = "" if protocol.matching == "rows" else "Ng"
            assert results.metrics[f"{protocol.name}/{ng}R@20"] == pytest.approx(100.0)
            assert results.metrics[f"{protocol.name}/{ng}mR@20"] == pytest.approx(100.0 * share)
        assert results.metrics[f"{protocol.name}/PR@20"] == pytest.approx(100.0)
    assert results.metrics["oracle/pairs@10"] == results.metrics["oracle/objects"] == 100.0
    assert results.panoptic["PQ"] == pytest.approx(100.0)


@bounded
@given(seeds)
def test_single_is_at_most_openpsg_strict_where_only_duplicate_masks_differ(seed: int):
    """Annotated masks, some predicted twice: copies help under `openpsg_strict` and are merged under `single`."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        gt = random_ground_truth(rng)
        source = np.concatenate([np.arange(len(gt.labels)), rng.integers(0, len(gt.labels), 4)])
        ends = rng.integers(0, len(source), (20, 2))
        ends = ends[source[ends[:, 0]] != source[ends[:, 1]]]
        rows = np.concatenate([ends, rng.integers(0, NUM_PREDICATES, (len(ends), 1))], axis=1)
        masks = gt.label_map[None] == source[:, None, None] + 1
        images.append((gt, Prediction(gt.labels[source], rows, masks)))
    metrics = evaluate(images, ks=(100,)).compute().metrics
    assert metrics["single/R@100"] <= metrics["openpsg_strict/R@100"] + 1e-9
    assert metrics["single/NgR@100"] == pytest.approx(metrics["openpsg_strict/NgR@100"])


@bounded
@given(seeds)
def test_graph_constraint_cannot_help_beyond_every_rank(seed: int):
    metrics = evaluate(samples(seed), ks=(1000,)).compute().metrics
    for protocol in PROTOCOLS:
        if protocol.matching != "rows":
            assert metrics[f"{protocol.name}/R@1000"] <= metrics[f"{protocol.name}/NgR@1000"] + 1e-9


def test_openpsg_equals_a_loop_over_triplets():
    for seed in range(60):
        images = samples(seed, 3)
        metrics = evaluate(images).compute().metrics
        for k in KS:
            for name, rule in (("R", "constrained"), ("NgR", "unconstrained")):
                per_image = [loop_recall(gt, prediction, k, rule) for gt, prediction in images]
                strict = 100 * np.mean([x[-1] for x in per_image])
                assert metrics[f"openpsg_strict/{name}@{k}"] == pytest.approx(strict)
                predicted = [x[-1] for x, (_, p) in zip(per_image, images, strict=True) if len(p.triplets)]
                if predicted:
                    assert metrics[f"openpsg/{name}@{k}"] == pytest.approx(100 * np.mean(predicted))
                means = [[x[p] for x in per_image if p in x] for p in range(NUM_PREDICATES)]
                mean = 100 * np.mean([np.mean(m) if m else 0.0 for m in means])
                assert metrics[f"openpsg_strict/{name.replace('R', 'mR')}@{k}"] == pytest.approx(mean)


def with_repeated_pairs(rng: np.random.Generator, prediction: Prediction) -> Prediction:
    """As the one-stage models that predict pairs: some rows twice, some with another predicate."""
    rows = prediction.triplets
    if len(rows):
        more = rows[rng.integers(0, len(rows), int(rng.integers(0, 12)))]
        other = rng.random(len(more)) < 0.6
        more[other, 2] = rng.integers(0, NUM_PREDICATES, int(other.sum()))
        rows = rng.permutation(np.concatenate([rows, more]))
    scores = rng.permutation(len(prediction.labels)) / 10
    return Prediction(prediction.labels, rows, prediction.masks, mask_scores=scores)


def test_openpsg_rows_equals_a_loop_over_all_rows():
    repeated = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = [(gt, with_repeated_pairs(rng, prediction)) for gt, prediction in samples(seed, 3)]
        images = [(gt, prediction) for gt, prediction in images if len(prediction.triplets)]
        repeated += sum(len(p.constrained) < len(p.triplets) for _, p in images)
        metrics = evaluate(images).compute().metrics
        for k in KS:
            per_image = [loop_recall(gt, prediction, k, "rows") for gt, prediction in images]
            assert metrics[f"openpsg_rows/R@{k}"] == pytest.approx(100 * np.mean([x[-1] for x in per_image]))
            means = [[x[p] for x in per_image if p in x] for p in range(NUM_PREDICATES)]
            mean = 100 * np.mean([np.mean(m) if m else 0.0 for m in means])
            assert metrics[f"openpsg_rows/mR@{k}"] == pytest.approx(mean)
            pairs = [loop_recall(gt, prediction, k, "pairs")[-1] for gt, prediction in images]
            assert metrics[f"openpsg_rows/PR@{k}"] == pytest.approx(100 * np.mean(pairs))
    assert repeated > 100


@bounded
@given(seeds)
def test_openpsg_and_its_rows_agree_where_no_pair_is_repeated(seed: int):
    images = [(gt, Prediction(p.labels, p.constrained, p.masks)) for gt, p in samples(seed)]
    metrics = evaluate(images).compute().metrics
    for k in KS:
        for name in ("R", "mR", "F"):
            np.testing.assert_equal(metrics[f"openpsg_rows/{name}@{k}"], metrics[f"openpsg/{name}@{k}"])


def test_single_of_masks_that_overlap_equals_a_loop():
    merged = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = [(gt, with_repeated_pairs(rng, prediction)) for gt, prediction in samples(seed, 3)]
        metrics = evaluate(images).compute().metrics
        for k in KS:
            per_image = [loop_single_recall(gt, prediction, k) for gt, prediction in images]
            assert metrics[f"single/R@{k}"] == pytest.approx(100 * np.mean([x[-1] for x in per_image]))
            means = [[x[p] for x in per_image if p in x] for p in range(NUM_PREDICATES)]
            mean = 100 * np.mean([np.mean(m) for m in means if m])
            assert metrics[f"single/mR@{k}"] == pytest.approx(mean)
        merged += sum(int(np.equal(*p.segment_triplets()[0][:, :2].T).sum()) for _, p in images)
    assert merged > 20, "pairs whose ends become one segment are meant to occur"


@bounded
@given(seeds)
def test_one_to_one_matching_is_a_matching(seed: int):
    rng = np.random.default_rng(seed)
    iou = rng.choice([0.0, 0.5, 0.6, 0.7, 1.0], (int(rng.integers(0, 8)), int(rng.integers(0, 6))))
    pred, gt = rng.integers(0, 3, iou.shape[0]), rng.integers(0, 3, iou.shape[1])
    matched = match_one_to_one(iou, pred, gt)
    assert (matched.sum(axis=0) <= 1).all() and (matched.sum(axis=1) <= 1).all()
    assert (matched <= match_any(iou, pred, gt)).all()
    assert (iou[matched] > 0.5).all()
    # A segment goes unmatched only if every fitting prediction fits another one at least as well.
    for segment in np.flatnonzero(~matched.any(axis=0)):
        for row in np.flatnonzero((pred == gt[segment]) & (iou[:, segment] > 0.5)):
            assert iou[row, gt == gt[segment]].max() >= iou[row, segment]


@bounded
@given(seeds, st.integers(1, 9), st.integers(1, 70))
def test_overlap_equals_a_loop_and_run_lengths_equal_arrays(seed: int, height: int, width: int):
    rng = np.random.default_rng(seed)
    masks = rng.random((5, height, width)) < rng.random((5, 1, 1))
    masks[0] = False
    gt_map = rng.integers(0, 4, (height, width))
    overlap = mask_overlap(masks, gt_map, 4)  # segment 4 is empty
    expected = [[loop_iou(mask, gt_map == n) for n in range(1, 5)] for mask in masks]
    np.testing.assert_array_equal(overlap.iou(), expected)
    rles = encode_masks(masks)
    np.testing.assert_array_equal(decode_masks(rles), masks)
    np.testing.assert_array_equal(mask_overlap(rles, gt_map, 4).intersection, overlap.intersection)


def test_overlap_without_numpy_2_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    masks, gt_map = rng.random((5, 20, 70)) < 0.5, rng.integers(0, 4, (20, 70))
    expected = mask_overlap(masks, gt_map, 4)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    found = mask_overlap(masks, gt_map, 4)
    for name in ("intersection", "pred_area", "gt_area"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@bounded
@given(seeds)
def test_flattening_masks_without_overlaps_changes_nothing(seed: int):
    rng = np.random.default_rng(seed)
    label_map = random_map(rng, 5)
    masks = label_map[None] == np.arange(1, 6)[:, None, None]
    order = rng.permutation(5)
    flat, source, mask_segment = flatten_masks(masks, order)
    np.testing.assert_array_equal(source, order)
    np.testing.assert_array_equal(np.r_[0, source + 1][flat], label_map)
    np.testing.assert_array_equal(source[mask_segment], np.arange(5))
    np.testing.assert_array_equal(label_map_from_masks(masks), label_map)


def test_sgbench_agrees():
    """Definitions coincide for one image: IoU of one half counts, predictions are unique, several may match one
    segment. Its matching gives each prediction one segment, as ours does where annotated masks do not overlap and the
    IoU exceeds one half; samples with an IoU of exactly one half twice would differ and do not occur here.

    Not compared, because it differs on purpose: `pair_recall` (it cuts the annotation to its first k rows) and data
    sets with missing images (it skips those in mean recall).
    """
    sgbench = pytest.importorskip("sgbench.metrics")
    matching = pytest.importorskip("sgbench.match")
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(300):
        gt = random_ground_truth(rng)
        prediction = random_prediction(rng, gt)
        if len(prediction.triplets) == 0:
            continue
        gt_masks = gt.label_map[None] == np.arange(1, len(gt.labels) + 1)[:, None, None]
        assigned = matching.match_instances(gt_masks, gt.labels, prediction.masks, prediction.labels)
        metrics = evaluate([(gt, prediction)]).compute()
        for ranking, prefix in ((prediction.constrained, ""), (prediction.unconstrained, "Ng")):
            matched = matching.remap_triplets(assigned, ranking)
            for k in KS:
                arguments = dict(gt_triplets=gt.unique_triplets, matched_triplets=matched)
                plain = sgbench.recall(k=k, mean=False, num_predicates=NUM_PREDICATES, **arguments)
                assert metrics.metrics[f"openpsg/{prefix}R@{k}"] == pytest.approx(100 * plain)
                per_predicate = sgbench.recall(k=k, mean=True, num_predicates=NUM_PREDICATES, **arguments)
                ours = metrics.predicate_recall["openpsg"][f"{prefix}mR"][KS.index(k)]
                np.testing.assert_allclose(ours, 100 * per_predicate)
                compared += 1
    assert compared > 1_500


def test_sgbench_differs_where_two_segments_of_a_class_have_exactly_half_of_a_mask():
    """A mask of two segments of equal size has an IoU of one half with both: OpenPSG counts both, sgbench the first."""
    matching = pytest.importorskip("sgbench.match")
    label_map = np.repeat([1, 2, 3], 4)[None]
    masks = label_map[None] == np.arange(1, 4)[:, None, None]
    predicted = np.stack([label_map <= 2, label_map == 3])
    labels, pred_labels = np.array([0, 0, 1]), np.array([0, 1])
    assert matching.match_instances(masks, labels, predicted, pred_labels).tolist() == [0, 2]
    ours = match_any(mask_overlap(predicted, label_map, 3).iou(), pred_labels, labels)
    assert ours.tolist() == [[True, True, False], [False, False, True]]


def test_shards_with_other_settings_are_refused():
    training = random_training(np.random.default_rng(0))
    given = {"num_predicates": NUM_PREDICATES, "training": training}
    changes = {"ks": (20,), "baseline": True, "is_thing": [True] * NUM_CLASSES, "training": None}
    for name, value in changes.items():
        expected = "num_classes, tables" if name == "training" else name
        with pytest.raises(ValueError, match=f"other: expected counts with the same {expected}$"):
            SGDetMetrics(**given).merge(SGDetMetrics(**{**given, name: value}))
