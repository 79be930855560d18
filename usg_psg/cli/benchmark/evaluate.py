"""Speed and memory of SGDet evaluation."""

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


def measure(samples: list, images: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each image, and the process's own memory after each tenth."""
    metrics, timer, memory = SGDetMetrics(NUM_PREDICATES, [True] * NUM_CLASSES), Timer(), []

    def update(gt: GroundTruth, arrays: dict) -> None:
        # Built anew, so that nothing is remembered of the last time.
        metrics.update(GroundTruth(gt.labels, gt.triplets, gt.label_map), Prediction(**arrays))

    for n in range(images):
        timer.call("image", update, *samples[n % len(samples)])
        if (n + 1) % max(images // 10, 1) == 0:
            memory.append(own_memory() or 0.0)
    return timer.each("image"), memory


def run(args: Namespace) -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    samples = [make_sample(rng, args) for _ in range(args.distinct)]
    before = own_memory() or 0.0
    times, memory = measure(samples, args.images)
    median, per_second = statistics.median(times), 1000 / statistics.fmean(times)
    print(
        f"{args.images} images of {args.size[1]} x {args.size[0]}, {args.segments} annotated segments, "
        f"{args.masks} masks, {args.triplets} triplets; one thread"
    )
    print(f"{median:.1f} ms per image (median), {per_second:.1f} images/s")
    tenths = [statistics.median(part) for part in np.array_split(times, 10) if len(part)]
    print("ms per image by tenth of the images: " + " ".join(f"{t:.1f}" for t in tenths))
    print("own MiB after each tenth:            " + " ".join(f"{m:.0f}" for m in memory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"own MiB before {before:.0f} (holds the {args.distinct} test images), peak resident {peak:.0f} MiB")
    if args.json:
        figures = {"ms": median, "images_per_s": per_second, "tenths_ms": tenths, "own_mib": memory, "peak_mib": peak}
        figures["images"] = args.images
        args.json.write_text(json.dumps(figures, indent=1))
