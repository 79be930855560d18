"""PQ by hand and against a loop over segments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from usg_psg.evaluation.matching import joint_histogram
from usg_psg.evaluation.panoptic_quality import PanopticQuality

from .samples import random_map


def quality(pred_map, gt_map, pred_labels, gt_labels, is_crowd=None, is_thing=(True, False, True)) -> PanopticQuality:
    pred_map, gt_map = np.atleast_2d(pred_map), np.atleast_2d(gt_map)
    pq = PanopticQuality(is_thing)
    joint = joint_histogram(pred_map, gt_map, len(pred_labels), len(gt_labels))
    pq.add(joint, np.array(pred_labels), np.array(gt_labels), None if is_crowd is None else np.array(is_crowd))
    return pq


def test_one_found_one_missed_one_false():
    # Class 0: IoU 3/4. Class 1: annotated, not found. Class 2: predicted, not there.
    pq = quality([1, 1, 1, 0, 2, 2], [1, 1, 1, 1, 2, 2], [0, 2], [0, 1])
    assert pq.counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    result = pq.compute()
    assert result["PQ"] == pytest.approx(100 * 0.75 / 3)
    assert result["SQ"] == pytest.approx(100 * 0.75 / 3)
    assert result["RQ"] == pytest.approx(100 / 3)
    assert result["PQ_th"] == pytest.approx(100 * 0.75 / 2)
    assert result["PQ_st"] == 0.0


def test_iou_of_exactly_one_half_is_no_match():
    pq = quality([1, 1, 0, 0], [1, 1, 1, 1], [0], [0])
    assert pq.counts[0].tolist() == [0, 1, 1]


def test_void_pixels_are_left_out_of_the_union():
    pq = quality([1, 1, 1, 1], [1, 1, 0, 0], [0], [0])
    assert pq.compute()["SQ"] == 100.0


@pytest.mark.parametrize(("void", "false_positives"), [(2, 1), (3, 0)])
def test_a_segment_mostly_on_void_is_not_false(void: int, false_positives: int):
    gt_map = [0] * void + [1] * (4 - void)
    assert quality([1, 1, 1, 1], gt_map, [2], [0]).counts[2, 1] == false_positives


def test_crowds_are_neither_found_nor_missed():
    pq = quality([1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2], [0, 2], [0, 2], is_crowd=[True, False])
    assert pq.counts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    # A prediction of another class on the crowd is false.
    assert quality([1, 1, 1], [1, 1, 1], [2], [0], is_crowd=[True]).counts.tolist()[2] == [0, 1, 0]


def test_nothing_at_all_is_not_a_number():
    assert math.isnan(PanopticQuality([True, False]).compute()["PQ"])


def test_equals_a_loop_over_segments():
    rng = np.random.default_rng(0)
    for _ in range(50):
        gt_map = random_map(rng, 5)
        pred_map = np.where(rng.random(gt_map.shape) < 0.25, random_map(rng, 5), gt_map)
        gt_labels, pred_labels = rng.integers(0, 3, 5), rng.integers(0, 3, 5)
        pred_labels = np.where(rng.random(5) < 0.7, gt_labels, pred_labels)
        result = quality(pred_map, gt_map, pred_labels, gt_labels).compute()
        assert result["PQ"] == pytest.approx(loop_pq(pred_map, gt_map, pred_labels, gt_labels))


def test_torchmetrics_agrees():
    """An outside reference where the definitions coincide. It has no crowds, joins the stuff of a class to one segment,
    and leaves pixels without prediction out of the union, too: here each stuff class has one segment, and all pixels
    are predicted. `test_equals_a_loop_over_segments` has pixels without prediction.
    """
    reference = pytest.importorskip("torchmetrics.functional.detection").panoptic_quality
    rng = np.random.default_rng(0)
    is_thing = np.array([True, True, False, False, True])
    pq = PanopticQuality(is_thing)
    images = []
    for _ in range(40):
        gt_map = random_map(rng, 6)
        pred_map = np.where((rng.random(gt_map.shape) < 0.3) | (gt_map == 0), random_map(rng, 6), gt_map)
        pred_map[pred_map == 0] = 1
        gt_labels = rng.permutation([0, 0, 1, 2, 3, rng.integers(0, 2)])
        pred_labels = gt_labels[rng.permutation(6)] if rng.random() < 0.3 else gt_labels
        pq.add(joint_histogram(pred_map, gt_map, 6, 6), pred_labels, gt_labels)
        void = len(is_thing)  # unknown to torchmetrics, so it ignores these pixels of the target
        images.append([np.stack([np.r_[void, x][m], m], -1) for m, x in ((pred_map, pred_labels), (gt_map, gt_labels))])
    preds, target = (torch.from_numpy(np.stack(x)) for x in zip(*images, strict=True))
    things, stuffs = ([c for c, thing in enumerate(is_thing) if thing == kind] for kind in (True, False))
    result, occurs = pq.compute(), pq.counts.any(axis=1)
    assert (pq.counts[:4] > 0).all() and not occurs[4]
    average = 100 * reference(preds, target, things, stuffs, return_sq_and_rq=True)
    assert [result[name] for name in ("PQ", "SQ", "RQ")] == pytest.approx(average.tolist())
    per_class = (100 * reference(preds, target, things, stuffs, return_per_class=True)).flatten().tolist()
    by_class = dict(zip([*things, *stuffs], per_class, strict=True))
    assert result["PQ_th"] == pytest.approx(np.mean([by_class[c] for c in things if occurs[c]]))
    assert result["PQ_st"] == pytest.approx(np.mean([by_class[c] for c in stuffs]))


def loop_pq(pred_map, gt_map, pred_labels, gt_labels) -> float:
    found: dict[int, list[float]] = {}
    pairs = []
    for p, pred_label in enumerate(pred_labels):
        for g, gt_label in enumerate(gt_labels):
            pred, gt = (pred_map == p + 1) & (gt_map > 0), gt_map == g + 1
            iou = (pred & gt).sum() / max((pred | gt).sum(), 1)
            if pred_label == gt_label and iou > 0.5:
                pairs.append((p, g))
                found.setdefault(int(gt_label), []).append(iou)
    values = []
    for c in range(3):
        ious = found.get(c, [])
        missed = sum(gt_labels[g] == c and g not in [b for _, b in pairs] for g in range(5))
        false = 0
        for p in range(5):
            mask = pred_map == p + 1
            on_void = (mask & (gt_map == 0)).sum()
            false += pred_labels[p] == c and p not in [a for a, _ in pairs] and mask.any() and 2 * on_void <= mask.sum()
        if ious or missed or false:
            values.append(sum(ious) / (len(ious) + 0.5 * missed + 0.5 * false))
    return 100 * float(np.mean(values))
