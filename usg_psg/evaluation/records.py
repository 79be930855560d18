"""Dataset dicts of a split against predictions: what an evaluator and the scoring of files share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data.panoptic import read_segment_index_map
from ..data.psg_mapper import reindex_relations
from .predictions_file import is_submission
from .scene import GroundTruth, Prediction
from .sgdet_metrics import SGDetMetrics

logger = logging.getLogger(__name__)


def annotation_arrays(record: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes (G,), relations (T, 3) and crowd flags (G,) of a dataset dict, without opening a file."""
    segments = record["segments_info"]
    labels = np.array([s["category_id"] for s in segments], dtype=np.int64)
    triplets = np.array(record["relations"], dtype=np.int64).reshape(-1, 3)
    return labels, triplets, np.array([s["iscrowd"] for s in segments], dtype=bool)


def ground_truth_from_record(record: dict) -> GroundTruth:
    """Annotation of a dataset dict; reads its panoptic PNG.

    Segments without a pixel are left out with their relations, and ids that no segment lists are unlabelled, as in
    training; a warning says so.

    Raises:
        FileNotFoundError, ValueError: for a PNG that is missing or does not fit, see `read_segment_index_map`.
    """
    labels, triplets, is_crowd = annotation_arrays(record)
    label_map, disagreements = read_segment_index_map(record)
    for disagreement in disagreements:
        logger.warning("%s", disagreement)
    keep = np.bincount(label_map.ravel(), minlength=len(labels) + 1)[1:] > 0
    if not keep.all():
        triplets, labels, is_crowd = reindex_relations(triplets, keep), labels[keep], is_crowd[keep]
        label_map = np.append(0, np.cumsum(keep))[label_map]
    return GroundTruth(labels, triplets, label_map, is_crowd, str(record["image_id"]))


def images_with_relations(records: Iterable[dict]) -> list[str]:
    """Ids of the annotated images that have relations, in order; a submission names its images by position in it."""
    return [str(record["image_id"]) for record in records if len(record["relations"])]


def records_of_file(path: Path | str, records: Sequence[dict]) -> Sequence[dict]:
    """The dataset dicts that a predictions file is scored on: of a submission those with relations, otherwise all."""
    return [record for record in records if len(record["relations"])] if is_submission(path) else records


def score_predictions(
    metrics: SGDetMetrics,
    records: Sequence[dict],
    predictions: Iterable[tuple[str, Prediction]],
    file: str = "predictions",
) -> SGDetMetrics:
    """Count every image of a split.

    Args:
        metrics: where to count; returned.
        records: dataset dicts of the split, see `load_psg_json`.
        predictions: image_id and prediction, in any order; images without one count as missing.
        file: where they are from, named in errors.

    Raises:
        ValueError: for a prediction of an image that the split lacks, a second one of the same image, or one that does
            not fit its annotation.
    """
    remaining = {str(record["image_id"]): record for record in records}
    known = set(remaining)
    for image_id, prediction in predictions:
        if image_id not in known:
            raise ValueError(f"{file}, image {image_id!r}: the annotated split has no such image")
        if image_id not in remaining:
            raise ValueError(f"{file}, image {image_id!r}: there is a second prediction")
        gt = ground_truth_from_record(remaining.pop(image_id))
        try:
            metrics.update(gt, prediction)
        except ValueError as error:
            raise ValueError(f"{file}, {error}") from error
    count_missing(metrics, remaining.values())
    return metrics


def count_missing(metrics: SGDetMetrics, records: Iterable[dict]) -> None:
    """Count images that nobody predicted anything for, with a warning that says how many."""
    records = list(records)
    if records:
        logger.warning("%d annotated images have no prediction: they count as images without relations", len(records))
    for record in records:
        labels, triplets, is_crowd = annotation_arrays(record)
        metrics.update_missing(triplets, labels, is_crowd)


def predicate_frequency(relations: Iterable[Sequence[Sequence[int]]], num_predicates: int) -> np.ndarray:
    """How often each predicate occurs in the relations of some images, e.g. of the training split: (P,) int64."""
    counts = np.zeros(num_predicates, dtype=np.int64)
    for rows in relations:
        if len(rows):
            counts += np.bincount(np.asarray(rows)[:, 2], minlength=num_predicates)
    return counts
