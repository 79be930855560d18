"""Small random samples, and a slow second implementation of the metrics to compare with."""

from __future__ import annotations

import numpy as np

from usg_psg.evaluation import GroundTruth, Prediction, TrainingTriplets
from usg_psg.training_counts import TrainingCounts
from usg_psg.vocabulary import Vocabulary

NUM_CLASSES, NUM_PREDICATES = 4, 5
SIZE = (12, 16)


def random_map(rng: np.random.Generator, num_segments: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Map of blocks; every segment owns at least one pixel, some pixels are void."""
    blocks = rng.integers(0, num_segments + 1, (size[0] // 2, size[1] // 2))
    label_map = blocks.repeat(2, axis=0).repeat(2, axis=1)
    label_map.flat[rng.permutation(label_map.size)[:num_segments]] = np.arange(1, num_segments + 1)
    return label_map


def random_triplets(rng: np.random.Generator, count: int, num_masks: int) -> np.ndarray:
    rows = np.stack([rng.integers(0, num_masks, (count,)) for _ in range(2)], axis=1)
    rows[rows[:, 0] == rows[:, 1], 1] = (rows[rows[:, 0] == rows[:, 1], 0] + 1) % num_masks
    return np.concatenate([rows, rng.integers(0, NUM_PREDICATES, (count, 1))], axis=1)


def random_ground_truth(rng: np.random.Generator, num_triplets: int | None = None) -> GroundTruth:
    num_segments = int(rng.integers(2, 7))
    count = int(rng.integers(1, 9)) if num_triplets is None else num_triplets
    return GroundTruth(
        labels=rng.integers(0, NUM_CLASSES, num_segments),
        triplets=random_triplets(rng, count, num_segments),
        label_map=random_map(rng, num_segments),
        image_id=str(rng.integers(10**9)),
    )


def random_prediction(rng: np.random.Generator, gt: GroundTruth, disjoint: bool = False) -> Prediction:
    """Noisy copies of annotated segments, some twice, some wrong, with triplets that are partly right."""
    num_gt = len(gt.labels)
    source = rng.permutation(num_gt) if disjoint else rng.integers(0, num_gt, int(rng.integers(2, 10)))
    if len(source) < 2:
        source = np.arange(num_gt)
    masks = gt.label_map[None] == source[:, None, None] + 1
    if disjoint:
        masks = masks & (rng.random(masks.shape) > rng.choice([0.05, 0.5]))
    else:
        masks = masks ^ (rng.random(masks.shape) < rng.choice([0.0, 0.05, 0.3]))
    labels = gt.labels[source].copy()
    wrong = rng.random(len(labels)) < 0.2
    labels[wrong] = rng.integers(0, NUM_CLASSES, int(wrong.sum()))
    rows = [random_triplets(rng, int(rng.integers(0, 12)), len(source))]
    for subject, object_, predicate in gt.triplets:
        ends = np.flatnonzero(source == subject), np.flatnonzero(source == object_)
        if len(ends[0]) and len(ends[1]) and rng.random() < 0.7:
            rows.append(np.array([[rng.choice(ends[0]), rng.choice(ends[1]), predicate]]))
    triplets = rng.permutation(np.concatenate(rows))
    return Prediction(labels=labels, triplets=triplets, masks=masks, image_id=gt.image_id)


def random_training(rng: np.random.Generator, num_images: int = 5) -> TrainingTriplets:
    images = [random_ground_truth(rng) for _ in range(num_images)]
    return training_triplets_of([(gt.labels, gt.triplets) for gt in images], NUM_CLASSES, NUM_PREDICATES)


def training_triplets_of(
    images: list[tuple[np.ndarray, np.ndarray]], num_classes: int, num_predicates: int
) -> TrainingTriplets:
    """Counts of images, of each the classes of its segments (G,) and its relations (T, 3)."""
    records = [
        {"segments_info": [{"category_id": x} for x in labels.tolist()], "relations": triplets.tolist()}
        for labels, triplets in images
    ]
    names = tuple(f"class{i}" for i in range(num_classes)), (), tuple(f"predicate{i}" for i in range(num_predicates))
    triplets = TrainingCounts.of_dataset(records, Vocabulary(*names)).triplets
    return TrainingTriplets.of(triplets)


def perfect_prediction(gt: GroundTruth) -> Prediction:
    """The annotation itself."""
    count = len(gt.labels)
    return Prediction(
        labels=gt.labels,
        triplets=gt.triplets,
        masks=gt.label_map[None] == np.arange(1, count + 1)[:, None, None],
        segment_map=gt.label_map,
        segment_labels=gt.labels,
        mask_segment=np.arange(count),
        pairs=gt.unique_pairs,
        image_id=gt.image_id,
    )


def loop_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 0.0


def hit_shares(gt_triplets: list[tuple], found: list[bool]) -> dict[int, float]:
    """Recall of one image per predicate; key -1 for all predicates together."""
    hits: dict[int, list[bool]] = {-1: list(found)}
    for (_, _, predicate), hit in zip(gt_triplets, found, strict=True):
        hits.setdefault(predicate, []).append(hit)
    return {key: float(np.mean(values)) for key, values in hits.items()}


def loop_recall(gt: GroundTruth, prediction: Prediction, k: int, rule: str = "constrained") -> dict[int, float]:
    """Recall of one image with every mask matched to any segment, see `hit_shares`.

    Args:
        rule: rows that take a rank. "constrained": the first of each pair. "unconstrained": the first of each triplet.
            "rows": all, as in OpenPSG's evaluator. "pairs": all, and a row need not have the right predicate, as in
            Pair-Net's pair recall.
    """
    rows, seen = [], set()
    for subject, object_, predicate in prediction.triplets.tolist():
        key = {"constrained": (subject, object_), "unconstrained": (subject, object_, predicate)}.get(rule, len(rows))
        if key not in seen:
            seen.add(key)
            rows.append((subject, object_, predicate))
    annotated = sorted(set(map(tuple, gt.triplets.tolist())))
    found = [
        any(
            (p == predicate or rule == "pairs")
            and prediction.labels[s] == gt.labels[subject]
            and prediction.labels[o] == gt.labels[object_]
            and loop_iou(prediction.masks[s], gt.label_map == subject + 1) >= 0.5
            and loop_iou(prediction.masks[o], gt.label_map == object_ + 1) >= 0.5
            for s, o, p in rows[:k]
        )
        for subject, object_, predicate in annotated
    ]
    return hit_shares(annotated, found)


def loop_single_recall(gt: GroundTruth, prediction: Prediction, k: int) -> dict[int, float]:
    """Recall of one image under SingleMPO, from masks that overlap and have scores, see `hit_shares`.

    By decreasing score a mask joins the first earlier core with IoU of one half or more; otherwise it becomes a core,
    if it has a pixel that is still free, and takes those. Rows become rows of cores, those with a lost end go, and the
    first of each pair counts, whether or not its ends are the same core.
    """
    cores: list[int] = []
    regions: list[np.ndarray] = []
    became: dict[int, int] = {}
    for mask in sorted(range(len(prediction.labels)), key=lambda n: -prediction.mask_scores[n]):
        twins = [n for n, c in enumerate(cores) if loop_iou(prediction.masks[mask], prediction.masks[c]) >= 0.5]
        free = prediction.masks[mask] & ~np.any([*regions, np.zeros_like(prediction.masks[mask])], axis=0)
        if twins:
            became[mask] = twins[0]
        elif free.any():
            became[mask] = len(cores)
            cores.append(mask)
            regions.append(free)
    claims: dict[int, tuple[float, int]] = {}
    for n, core in enumerate(cores):
        ious = [
            loop_iou(regions[n], gt.label_map == g + 1) * (gt.labels[g] == prediction.labels[core])
            for g in range(len(gt.labels))
        ]
        best = int(np.argmax(ious))
        if ious[best] > 0.5 and ious[best] > claims.get(best, (0.0, 0))[0]:
            claims[best] = (ious[best], n)
    segment_of = {n: g for g, (_, n) in claims.items()}
    rows: dict[tuple[int, int], int] = {}
    for subject, object_, predicate in prediction.triplets.tolist():
        if subject in became and object_ in became:
            rows.setdefault((became[subject], became[object_]), predicate)
    hits = {(segment_of.get(s), segment_of.get(o), p) for (s, o), p in list(rows.items())[:k]}
    annotated = sorted(set(map(tuple, gt.triplets.tolist())))
    return hit_shares(annotated, [triplet in hits for triplet in annotated])
