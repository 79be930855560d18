"""Speed and memory of SGDet evaluation, beside loops over triplets."""

from __future__ import annotations

import json
import resource
import statistics
from argparse import Namespace
from typing import Any

import numpy as np

from ...evaluation import GroundTruth, Prediction, SGDetMetrics
from .measure import Timer, own_memory

NUM_CLASSES, NUM_PREDICATES, K = 133, 56, 100


def make_sample(rng: np.random.Generator, args: Namespace) -> tuple[GroundTruth, dict[str, Any]]:
    """Annotated segments as nearest-site cells, predicted masks as shifted, label-noisy copies of them."""
    height, width = args.size
    sites = rng.random((args.segments, 2)) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    distance = (rows[None] - sites[:, 0, None, None]) ** 2 + (columns[None] - sites[:, 1, None, None]) ** 2
    label_map = (distance.argmin(axis=0) + 1).astype(np.uint16)
    # A few classes per image and frequent predicates, as in photographs.
    classes = rng.choice(NUM_CLASSES, max(args.segments // 2, 1), replace=False)
    labels = rng.choice(classes, args.segments)
    predicates = rng.choice(NUM_PREDICATES, 10, replace=False)

    def triplets(count: int, num: int) -> np.ndarray:
        ends = np.array([rng.permutation(num)[:2] for _ in range(count)])
        return np.concatenate([ends, rng.choice(predicates, (count, 1))], axis=1)

    gt = GroundTruth(labels, triplets(args.annotated, args.segments), label_map)
    source = np.concatenate([np.arange(args.segments), rng.integers(0, args.segments, args.masks)])[: args.masks]
    shifts = rng.integers(-25, 26, (args.masks, 2))
    masks = np.stack([np.roll(label_map == s + 1, shift, (0, 1)) for s, shift in zip(source, shifts, strict=True)])
    pred_labels = np.where(rng.random(args.masks) < 0.8, labels[source], rng.choice(classes, args.masks))
    rows_ = triplets(args.triplets, args.masks)
    for n in range(0, args.triplets, 3):  # a third copies an annotated triplet
        subject, object_, predicate = gt.triplets[rng.integers(len(gt.triplets))]
        ends = [rng.choice(np.flatnonzero(source == end)) for end in (subject, object_)]
        rows_[n] = (*ends, predicate)
    segment_map = np.zeros((height, width), dtype=np.int64)
    for n in range(args.segments - 1, -1, -1):
        segment_map[masks[n]] = n + 1
    mask_segment = np.where(np.arange(args.masks) < args.segments, np.arange(args.masks), -1)
    prediction = {
        "labels": pred_labels,
        "triplets": rows_,
        "masks": masks,
        "segment_map": segment_map,
        "segment_labels": pred_labels[: args.segments],
        "mask_segment": mask_segment,
        "pairs": rows_[:, :2],
    }
    return gt, prediction


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two bool masks."""
    union = np.logical_or(a, b).sum()
    return np.logical_and(a, b).sum() / union if union else 0.0


def loop_recall(gt: GroundTruth, arrays: dict[str, Any], labels_first: bool) -> float:
    """Recall@K of one image under `openpsg`, one pair of triplets after the other."""
    found, prediction, masks = 0, Prediction(**arrays), arrays["masks"]
    gt_masks = [gt.label_map == n + 1 for n in range(len(gt.labels))]
    for subject, object_, predicate in gt.unique_triplets.tolist():
        hit = False
        for s, o, p in prediction.constrained[:K].tolist():
            agree = (
                p == predicate
                and prediction.labels[s] == gt.labels[subject]
                and prediction.labels[o] == gt.labels[object_]
            )
            if labels_first and not agree:
                continue
            overlap = (
                mask_iou(masks[s], gt_masks[subject]) >= 0.5,
                mask_iou(masks[o], gt_masks[object_]) >= 0.5,
            )
            hit |= agree and all(overlap)
        found += hit
    return found / len(gt.unique_triplets)


def run_ours(samples: list, images: int) -> tuple[SGDetMetrics, list[float], list[float]]:
    """Milliseconds of each image, and the process's own memory after each tenth."""
    metrics, timer, memory = SGDetMetrics(NUM_PREDICATES, [True] * NUM_CLASSES), Timer(), []

    def update(gt: GroundTruth, arrays: dict) -> None:
        # Built anew, so that nothing is remembered of the last time.
        metrics.update(GroundTruth(gt.labels, gt.triplets, gt.label_map), Prediction(**arrays))

    for n in range(images):
        timer.call("ours", update, *samples[n % len(samples)])
        if (n + 1) % max(images // 10, 1) == 0:
            memory.append(own_memory() or 0.0)
    return metrics, timer.each("ours"), memory


def run_loop(samples: list, images: int, labels_first: bool) -> tuple[float, float]:
    """Mean recall in percent, and median milliseconds of an image."""
    timer, recalls = Timer(), []
    for n in range(images):
        recalls.append(timer.call("loop", loop_recall, *samples[n % len(samples)], labels_first))
    return 100 * statistics.fmean(recalls), timer.medians()["loop"]


def run(args: Namespace) -> None:
    """Measure, compare and print.

    Raises:
        ValueError: if a loop finds another recall.
    """
    rng = np.random.default_rng(0)
    samples = [make_sample(rng, args) for _ in range(args.distinct)]
    before = own_memory() or 0.0
    _, times, memory = run_ours(samples, args.images)
    expected = run_ours(samples, args.loop_images)[0].compute().metrics[f"openpsg/R@{K}"]
    ours, per_second = statistics.median(times), 1000 / statistics.fmean(times)
    print(
        f"{args.images} images of {args.size[1]} x {args.size[0]}, {args.segments} annotated segments, "
        f"{args.masks} masks, {args.triplets} triplets; one thread"
    )
    print(f"ours: {ours:.1f} ms per image (median), {per_second:.1f} images/s")
    figures: dict[str, Any] = {"images": args.images, "ours_ms": ours, "images_per_s": per_second}
    for name, labels_first in (("every pair of triplets", False), ("where labels agree", True)):
        recall, loop = run_loop(samples, args.loop_images, labels_first)
        if abs(recall - expected) > 1e-9:
            raise ValueError(f"the loop '{name}' finds R@{K} {recall}, ours {expected}")
        print(f"loop, {name}: {loop:.1f} ms per image, {loop / ours:.1f} times ours (same R@{K} {recall:.2f})")
        figures[f"loop_ms, {name}"] = loop
    tenths = [statistics.median(part) for part in np.array_split(times, 10) if len(part)]
    print("ms per image by tenth of the images: " + " ".join(f"{t:.1f}" for t in tenths))
    print("own MiB after each tenth:            " + " ".join(f"{m:.0f}" for m in memory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"own MiB before {before:.0f} (holds the {args.distinct} test images), peak resident {peak:.0f} MiB")
    figures.update(tenths_ms=tenths, own_mib=memory, peak_mib=peak)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
